"""Wherever a disk fails or a process dies: what was there is whole, and the next run finishes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lrclr import Bundle
from tests import bundles
from tests.faults.inject import KILLED

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parents[2]


def _run(folder: Path, how: str, number: int, command: Sequence[object]) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, "-m", "tests.faults.inject", str(folder), how, str(number), *map(str, command)]
    return subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False)


def _events(folder: Path, command: Sequence[object]) -> int:
    done = _run(folder, "count", 0, command)
    assert done.returncode == 0, done.stderr
    return int(done.stderr.split()[-1])


class _Case:
    """A command over a bundle that is there already."""

    def __init__(self, name: str, base: Path) -> None:
        checkpoint = bundles.checkpoint_folder(base)
        commands: dict[str, list[object]] = {
            # Another precision, so that old and new differ.
            "export": ["export", checkpoint, "--fp32", "-o", "bundle"],
            "build": ["build", "bundle", "--engine", "tensorrt-rtx", "--compute-capability", "8.6"],
        }
        self.command = commands[name]
        self.bundle = bundles.exported(base, "fp16")

    def at(self, folder: Path) -> tuple[Path, list[object]]:
        """The bundle in a folder of its own, and the command that changes it."""
        bundle = bundles.copied(self.bundle, folder / "bundle")
        return bundle, [bundle if part == "bundle" else part for part in self.command]


def _fails_at(case: _Case, how: str, number: int, folder: Path) -> None:
    bundle, command = case.at(folder)
    before = bundles.digests(bundle)
    done = _run(folder, how, number, command)
    if how == "killed":
        assert done.returncode == KILLED
    elif done.returncode != 0:
        # What was still to be tidied up may fail without harm; all else is told in one line.
        assert done.returncode == 1, done.stderr
        assert "Traceback" not in done.stderr
        assert "No space left" in done.stderr
    # Old or new, and nothing between: the manifest knows every file.
    after = Bundle(bundle)
    if bundles.digests(bundle) != before:
        assert done.returncode in {0, KILLED}
        assert (after.manifest.precision, len(after.manifest.plans)) != ("fp16", 0)
    again = _run(folder, "count", 0, command)
    assert again.returncode == 0, again.stderr
    changed = Bundle(bundle).manifest
    assert (changed.precision, len(changed.plans)) != ("fp16", 0)


@pytest.mark.parametrize("how", [pytest.param("full", marks=pytest.mark.slow), "killed"])
def test_amid_the_writing(how: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    case = _Case("build", tmp_path_factory.getbasetemp())
    (tmp_path / "counted").mkdir()
    count = _events(tmp_path / "counted", case.at(tmp_path / "counted")[1])
    assert count > 10
    _fails_at(case, how, count // 2, tmp_path / "failing")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("how", ["full", "killed"])
@pytest.mark.parametrize("name", ["export", "build"])
def test_every_event(name: str, how: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    case = _Case(name, tmp_path_factory.getbasetemp())
    (tmp_path / "counted").mkdir()
    for number in range(1, _events(tmp_path / "counted", case.at(tmp_path / "counted")[1]) + 1):
        _fails_at(case, how, number, tmp_path / str(number))
