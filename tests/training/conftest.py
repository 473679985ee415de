"""Fixtures for the tests of training: images with bright and dark squares, and reports that describe them."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from lrclr.checkpoints import Checkpoint

    Dataset = Callable[..., Path]

REPOSITORY = Path(__file__).parents[2]
FIELDS = ("image", "report", "split", "Lung Opacity", "Pneumothorax")


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 64 images. Even ones have a bright square, odd ones a dark one."""
    folder = tmp_path_factory.mktemp("squares")
    generator = np.random.default_rng(0)
    for number in range(64):
        pixels = generator.integers(90, 110, (48, 48), np.uint8)
        top, left = generator.integers(4, 24, 2)
        pixels[top : top + 20, left : left + 20] = 230 if number % 2 == 0 else 20
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def row(squares: Path, number: int, split: str) -> dict[str, Any]:
    bright = number % 2 == 0
    # All reports differ. Otherwise there would be only two texts and no contrast.
    report = f"{'Lung opacity' if bright else 'Pneumothorax'}. No {'pneumothorax' if bright else 'lung opacity'}."
    label = {"Lung Opacity": int(bright), "Pneumothorax": int(not bright)}
    return {"image": str(squares / f"{number}.png"), "report": f"{report} Case {number}.", "split": split, **label}


@pytest.fixture
def dataset(squares: Path, tmp_path: Path) -> Dataset:
    """Writes a dataset of 32 rows for training and 32 for validation. `change` changes or removes a row."""

    def write(
        change: Callable[[int, dict[str, Any]], dict[str, Any] | None] = lambda _, row_: row_, *, name: str = "data.csv"
    ) -> Path:
        rows = (change(n, row(squares, n, "train" if n < 32 else "validation")) for n in range(64))
        return write_csv(tmp_path / name, [row_ for row_ in rows if row_ is not None])

    return write


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows(rows)
    return path


def start(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    """Start a Python process in the repository, with one thread."""
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def base(quiet_transformers: None) -> Checkpoint:
    """A tiny random checkpoint for one test, since training changes it."""
    from lrclr.checkpoints import init_checkpoint

    return init_checkpoint("tiny")
