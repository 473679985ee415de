"""A small data set with masks, a model as checkpoint and bundle, and scores that are written directly."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from lrclr import ZeroShotClassifier
from lrclr.datasets import read_dataset
from lrclr.evaluation import Scores

# Private: the answers of a model that was never run have no public constructor.
from lrclr.evaluation._scores import ModelAnswers
from lrclr.inference import Answers
from lrclr.preprocessing import PreprocessSpec
from tests import bundles

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from lrclr.datasets import ImageDataset

    MakeScores = Callable[..., Scores]

FINDINGS = ("Edema", "Pneumothorax", "Fracture")
SIDE = 64


def write_data(folder: Path, *, seed: int = 0, test: int = 26, validation: int = 14) -> Path:
    """Write PNGs of noise with square masks, and their dataset. No image of the test split has "Fracture"."""
    draw = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    rows = []
    for number in range(test + validation):
        split = "test" if number < test else "validation"
        pixels = draw.integers(0, 200, (SIDE, SIDE - 10), dtype=np.uint8)
        labels = [int(draw.random() < 0.4), int(draw.random() < 0.5), int(split == "validation" and number % 3 == 0)]
        mask = np.zeros_like(pixels)
        for bit in (0, 1):
            if labels[bit]:
                top, left = draw.integers(0, SIDE - 30, 2)
                mask[top : top + 14, left : left + 18] |= 1 << bit
                pixels[top : top + 14, left : left + 18] = 255
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        Image.fromarray(mask).save(folder / "images" / f"{number}.mask.png")
        files = (f"images/{number}.png", split, f"patient{number // 2}", f"images/{number}.mask.png")
        rows.append([*files[:3], *labels, files[3]])
    rows[1][3] = -1
    rows[2][4] = ""
    manifest = folder / "manifest.csv"
    with manifest.open("w", newline="") as file:
        csv.writer(file).writerows([["image", "split", "patient", "edema", *FINDINGS[1:], "mask"], *rows])
    return manifest


@pytest.fixture(scope="session")
def data_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset. Shared: write another one to change it."""
    return write_data(tmp_path_factory.mktemp("evaluated") / "data")


@pytest.fixture
def make_data(data_file: Path, tmp_path: Path) -> Callable[..., Path]:
    """A function that writes another dataset of the same images, with renamed columns and changed rows."""

    def write(
        columns: Mapping[str, str] | None = None, change: Callable[[dict[str, str]], dict[str, str]] = lambda row: row
    ) -> Path:
        with data_file.open(newline="") as file:
            reader = csv.DictReader(file)
            names, rows = list(reader.fieldnames or ()), [change(row) for row in reader]
        target = tmp_path / "changed.csv"
        with target.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([(columns or {}).get(name, name) for name in names])
            for row in rows:
                folder = data_file.parent
                files = {name: str(folder / row[name]) for name in ("image", "mask") if row[name]}
                writer.writerow([{**row, **files}[name] for name in names])
        return target

    return write


@pytest.fixture(scope="session")
def data(data_file: Path) -> ImageDataset:
    return read_dataset(data_file)


@pytest.fixture(scope="session")
def bundle_folder(checkpoint_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundles.exported(tmp_path_factory.getbasetemp(), "fp32")


@pytest.fixture(scope="session")
def classifier(bundle_folder: Path) -> ZeroShotClassifier:
    return ZeroShotClassifier.from_bundle(bundle_folder)


@pytest.fixture(scope="session")
def torch_classifier(checkpoint_folder: Path) -> ZeroShotClassifier:
    return ZeroShotClassifier.from_checkpoint(checkpoint_folder)


@pytest.fixture
def make_scores() -> MakeScores:
    return scores_of_gaps


def scores_of_gaps(
    labels: Any, global_: Any, local: Any = None, *, group: Any = None, trained: bool = True, **info: Any
) -> Scores:
    """Scores of a model that was never run: gaps ``[N, F]`` between positive and negative prompts, global and local."""
    labels, gap = np.asarray(labels, np.int8), np.asarray(global_, np.float32)
    other = np.zeros_like(gap) if local is None else np.asarray(local, np.float32)
    images, findings = gap.shape
    zero = np.zeros_like(gap)
    attention = np.tile(np.array([0.5, 0.25, 0.25], np.float32), (images, findings, 1))
    index = np.tile(np.array([0, 1, 0], np.int64), (images, 1))
    importance = np.tile(np.array([0.1, 0.5, 0.2], np.float32), (images, 1))
    known = {
        "kind": "checkpoint",
        "sha256": "0" * 64,
        "checkpoint_sha256": "0" * 64,
        "precision": "fp32",
        "engine": "none",
        "fusion_trained": trained,
        "exact": False,
        "alpha": 0.0,
        "score_scale": 1.0,
        "patch_size": 16,
        "preprocess": PreprocessSpec.clip(64).to_dict(),
    }
    return Scores(
        findings=tuple(f"finding {f}" for f in range(findings)),
        line=np.arange(2, images + 2),
        image=np.array([f"{n:064x}" for n in range(images)]),
        group=np.arange(images) if group is None else np.asarray(group),
        labels=labels,
        sizes=np.full((images, 2), 64),
        failures=(),
        models=(ModelAnswers(known | info, Answers(zero + 0.5, gap, zero, other, zero, attention, index, importance)),),
        alpha=0.0,
        calibration=np.tile([1.0, 0.0], (findings, 1)),
    )
