"""Validation images that vary: a data set of the same form, whose masks follow the images."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from benchmarks.checkpoint.images import SIZES, read_split
from benchmarks.checkpoint.varied import write_varied
from benchmarks.phantom.cases import FINDINGS

if TYPE_CHECKING:
    from pathlib import Path

BRIGHT = FINDINGS.index("Lung Lesion")


def dataset(folder: Path, count: int) -> Path:
    """Dark images of 224 × 224 pixels, each with one bright square, which is its lung lesion."""
    folder.mkdir()
    with (folder / "manifest.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, ["image", "report", "split", *FINDINGS, "mask"])
        table.writeheader()
        for number in range(count):
            square = np.zeros((224, 224), np.uint8)
            row, column = 60 + 10 * (number % 8), 60 + 10 * (number // 8)
            square[row : row + 40, column : column + 40] = 1
            names = {part: f"{part}{number}.png" for part in ("image", "mask")}
            Image.fromarray(60 + 120 * square).save(folder / names["image"])
            Image.fromarray(square << BRIGHT).save(folder / names["mask"])
            labels = {name: int(name == "Lung Lesion") for name in FINDINGS}
            table.writerow({**names, **labels, "report": f"Report {number}.", "split": "mixed-validation"})
    return folder / "manifest.csv"


def test_each_image_comes_three_times_with_its_labels_and_a_mask_that_follows_it(tmp_path: Path) -> None:
    given = dataset(tmp_path / "given", 40)
    write_varied(given, tmp_path / "varied", "mixed-validation")
    before = read_split(given, "mixed-validation")
    after = read_split(tmp_path / "varied" / "manifest.csv", "validation")
    assert after.images.shape == (120, SIZES[-1], SIZES[-1])
    assert after.reports == before.reports * 3
    assert (after.labels == np.tile(before.labels, (3, 1))).all()
    assert not (after.images[:40] == after.images[40:80]).all()
    assert set(np.unique(after.masks)) == {0, 1 << BRIGHT}
    inside = after.masks > 0
    brighter = [image[mask].mean() > image[~mask].mean() for image, mask in zip(after.images, inside, strict=True)]
    assert np.mean(brighter) > 0.95


def test_the_same_images_are_made_again(tmp_path: Path) -> None:
    given = dataset(tmp_path / "given", 4)
    for name in ("one", "two"):
        write_varied(given, tmp_path / name, "mixed-validation")
    one, two = (read_split(tmp_path / name / "manifest.csv", "validation").images for name in ("one", "two"))
    assert (one == two).all()
