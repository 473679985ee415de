"""Commands that change existing files, and checks of these files after the command."""

from __future__ import annotations

import shutil
from collections import Counter
from typing import TYPE_CHECKING

import pyarrow.parquet as pq

from lrclr import Bundle
from lrclr.checkpoints import load_checkpoint
from tests import bundles
from tests.training.conftest import row, write_csv

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Case:
    """A command in a folder.

    Attributes:
        command: arguments of ``lrclr``. Paths are relative to the folder.
    """

    command: tuple[object, ...]

    def prepare(self, folder: Path) -> None:
        """Create the files that the command changes."""
        raise NotImplementedError

    def assert_complete(self, folder: Path) -> None:
        """Assert that the files are old or new, and complete."""
        raise NotImplementedError

    def assert_new(self, folder: Path) -> None:
        """Assert that the files are new."""
        raise NotImplementedError


class _BundleCase(Case):
    """An fp16 bundle without plans that becomes another bundle."""

    def __init__(self, base: Path, command: tuple[object, ...]) -> None:
        self.command = command
        self._old = bundles.exported(base, "fp16")

    def prepare(self, folder: Path) -> None:
        bundles.copied(self._old, folder / "bundle")

    def assert_complete(self, folder: Path) -> None:
        bundle = Bundle(folder / "bundle")  # the manifest lists every file
        if not self._is_new(bundle):
            assert bundles.digests(bundle.path) == bundles.digests(self._old)

    def assert_new(self, folder: Path) -> None:
        assert self._is_new(Bundle(folder / "bundle"))

    @staticmethod
    def _is_new(bundle: Bundle) -> bool:
        return (bundle.manifest.precision, len(bundle.manifest.plans)) != ("fp16", 0)


class _Score(Case):
    """An archive with scores of four images, then two more images and one change."""

    OLD, ALL = 4, 6

    def __init__(self, base: Path) -> None:
        bundle = bundles.exported(base, "fp32")
        self.command = ("score", "archive", "-o", "scores", "-b", bundle, "--rows-per-part", 2)
        self._ready = base / "scored"
        if not self._ready.exists():
            archive = self._ready / "archive"
            archive.mkdir(parents=True)
            for number in range(self.OLD):
                bundles.radiograph(archive / f"{number}.png", number)
            done = bundles.run(self.command, cwd=self._ready)
            assert done.returncode == 0, done.stderr
            for number in (0, *range(self.OLD, self.ALL)):
                bundles.radiograph(archive / f"{number}.png", 100 + number)

    def prepare(self, folder: Path) -> None:
        shutil.copytree(self._ready, folder, dirs_exist_ok=True)

    def assert_complete(self, folder: Path) -> None:
        found = self._rows(folder)
        assert max(found.values()) == 1
        assert {f"{number}.png" for number in range(self.OLD)} <= found.keys()

    def assert_new(self, folder: Path) -> None:
        assert self._rows(folder) == Counter(f"{number}.png" for number in range(self.ALL))

    @staticmethod
    def _rows(folder: Path) -> Counter[str]:
        return Counter(
            name
            for part in (folder / "scores").glob("part-*.parquet")
            for name in pq.read_table(part, columns=["file"])["file"].to_pylist()
        )


class _Train(Case):
    """A run that is resumed, with its cache of pixels, its states and its checkpoint."""

    def __init__(self, base: Path) -> None:
        self._ready = base / "trained"
        images = self._ready / "images"
        options = ("--max-steps", 4, "--batch-size", 4, "--save-every", 2, "--evaluate-every", 2, "--workers", 0)
        checkpoint = bundles.checkpoint_folder(base)
        self.command = ("train", self._ready / "data.csv", "--base", checkpoint, "-o", "run", "--resume", *options)
        if not images.exists():
            images.mkdir(parents=True)
            for number in range(16):
                bundles.radiograph(images / f"{number}.png", number, (48, 48))
            rows = [row(images, number, "train" if number < 8 else "validation") for number in range(16)]
            write_csv(self._ready / "data.csv", rows)
            done = bundles.run(self.command, cwd=self._ready)
            assert done.returncode == 0, done.stderr
        self._weights = bundles.digests(self._ready / "run" / "checkpoint")

    def prepare(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)

    def assert_complete(self, folder: Path) -> None:
        if (folder / "run" / "checkpoint").exists():
            load_checkpoint(folder / "run" / "checkpoint")

    def assert_new(self, folder: Path) -> None:
        assert bundles.digests(folder / "run" / "checkpoint") == self._weights


CASES: dict[str, Callable[[Path], Case]] = {
    "export": lambda base: _BundleCase(
        base, ("export", bundles.checkpoint_folder(base), "--fp32", "--engine", "onnxruntime", "-o", "bundle")
    ),
    "build": lambda base: _BundleCase(
        base, ("build", "bundle", "--engine", "tensorrt-rtx", "--compute-capability", "8.6")
    ),
    "score": _Score,
    "train": _Train,
}


def case_named(name: str, base: Path) -> Case:
    """The case with this name."""
    return CASES[name](base)
