"""Validation images that vary as those of the training do, for prompts, alpha, thresholds and calibration.

::

    python -m benchmarks.checkpoint.varied build/phantom/manifest.csv -o build/varied

What is fitted on validation images of one machine does not hold for another one. The folder is a data set with the
columns of the phantom's and one split, ``validation``, which contains each image several times.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from benchmarks.checkpoint.images import CELLS, SIDE, SIZES, read_split, rows_of_split, varied
from benchmarks.commands import reports_errors
from benchmarks.phantom.picture import SPLITS
from lrclr._files import replace_directory

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["write_varied"]

_TIMES = 3
_CELL = SIZES[-1] // SIDE // CELLS
_SPLIT = "validation"


def write_varied(dataset: Path, folder: Path, split: str = "validation", *, seed: int = 0) -> None:
    """Write the data set.

    Args:
        dataset: ``manifest.csv`` of the phantom data set.
        folder: folder to write; an existing one is replaced.
        split: images to vary.
        seed: seed of the changes.
    """
    rows, data = rows_of_split(dataset, split), read_split(dataset, split)
    rng = torch.Generator().manual_seed(seed)
    with replace_directory(folder, overwrite=True, expected={"manifest.csv", "images", "masks"}) as work:
        for name in ("images", "masks"):
            (work / name).mkdir()
        with (work / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, ["patient", *rows[0]])
            table.writeheader()
            for time in range(_TIMES):
                grey, covered = varied(data.images, data.masks, rng)
                assert covered is not None
                pixels = (grey[:, 0] * 255).round().byte().numpy()
                for number, (row, image, mask) in enumerate(zip(rows, pixels, _masks(covered), strict=True)):
                    names = {part: f"{part}s/{number:06d}_{time}.png" for part in ("image", "mask")}
                    Image.fromarray(image).save(work / names["image"])
                    Image.fromarray(mask).save(work / names["mask"])
                    table.writerow({**row, **names, "split": _SPLIT, "patient": number})


def _masks(covered: torch.Tensor) -> NDArray[np.uint8]:
    """Masks ``[B, 224, 224]`` of the cells ``[B, 7, 28, 28]`` that a finding covers; bit k is finding k."""
    bits = (covered.numpy() > 0.25).astype(np.uint8) << np.arange(covered.shape[1], dtype=np.uint8)[:, None, None]
    cells: NDArray[np.uint8] = np.bitwise_or.reduce(bits, axis=1)
    return cells.repeat(_CELL, axis=1).repeat(_CELL, axis=2)


@reports_errors
def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.checkpoint.varied", description="Vary the validation images.")
    parser.add_argument("dataset", type=Path, help="manifest.csv of the phantom data set")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--split", choices=SPLITS, default="validation", help="images to vary")
    options = parser.parse_args()
    write_varied(options.dataset, options.output, options.split)
    return 0


if __name__ == "__main__":
    sys.exit(main())
