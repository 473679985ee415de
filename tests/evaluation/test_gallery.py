"""Example pictures of right and wrong answers: which images are chosen, and what the pictures show."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from lrclr import Finding, FindingSet, ZeroShotClassifier
from lrclr.datasets import Box, Row
from lrclr.errors import ImageError, UsageError

# Private: the pictures as arrays. The report contains them as PNG only.
from lrclr.evaluation._gallery import gallery

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from lrclr.evaluation import Example

FINDINGS = FindingSet((Finding("Edema"), Finding("<Nodule>")))
SHADES = 20


@pytest.fixture(scope="module")
def classifier(quiet_transformers: None) -> ZeroShotClassifier:
    from lrclr.checkpoints import init_checkpoint

    return ZeroShotClassifier.from_checkpoint(init_checkpoint("tiny", fusion_trained=True, alpha=0.4))


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    """Radiographs of different shades. The first one is tall and has a box for its Edema."""
    folder = tmp_path_factory.mktemp("Mrs Secret 1950")
    rows_ = []
    for number in range(8):
        size = (60, 400) if number == 0 else (90, 90)
        Image.new("L", size, 60 + number * SHADES).save(folder / f"secret{number}.png")
        boxes = {"EDEMA": (Box(10, 100, 50, 300),)} if number == 0 else {}
        rows_.append(Row(line=number + 2, image=folder / f"secret{number}.png", report="secret report", boxes=boxes))
    return rows_


def columns(edema: Sequence[float], nodule: float = 0.5) -> NDArray[np.float64]:
    return np.stack([np.array(edema), np.full(len(edema), nodule)], axis=1)


def labelled(edema: Sequence[int]) -> NDArray[np.int8]:
    return np.stack([np.array(edema, np.int8), np.full(len(edema), -2, np.int8)], axis=1)


def pixels(example: Example) -> NDArray[np.int16]:
    with Image.open(io.BytesIO(example.picture)) as picture:
        return np.asarray(picture.convert("RGB"), np.int16)


def shown(examples: Sequence[Example]) -> list[tuple[str, int]]:
    """Kind and number of each image. The shade at the left edge, where no box is, identifies the image."""
    return [(each.kind, round((pixels(each)[1, 1].mean() - 60) / SHADES)) for each in examples]


def test_each_kind_is_chosen_by_probability(classifier: ZeroShotClassifier, rows: list[Row]) -> None:
    probability = columns([0.9, 0.8, 0.45, 0.3, 0.6, 0.5, 0.1, 0.99])
    examples = gallery(classifier, rows, probability, labelled([1, 1, 1, 1, 0, 0, 0, -1]), FINDINGS, per_kind=2)
    picked = [("best", 1), ("missed", 3), ("missed", 2), ("false alarm", 4), ("false alarm", 5)]
    assert shown(examples)[1:] == picked
    assert [each.probability for each in examples] == [0.9, 0.8, 0.3, 0.45, 0.6, 0.5]
    assert {each.finding for each in examples} == {"Edema"}


def test_a_right_model_has_no_missed_examples(classifier: ZeroShotClassifier, rows: list[Row]) -> None:
    probability = columns([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2])
    examples = gallery(classifier, rows, probability, labelled([1, 1, 1, 1, 0, 0, 0, 0]), FINDINGS)
    assert [each.kind for each in examples] == ["best", "best"]


def test_a_finding_that_all_or_no_images_have(classifier: ZeroShotClassifier, rows: list[Row]) -> None:
    everyone = gallery(classifier, rows, columns([0.5] * 8), labelled([1] * 8), FINDINGS, per_kind=1)
    assert [each.kind for each in everyone] == ["best"]
    assert gallery(classifier, rows, columns([0.5] * 8), labelled([0] * 8), FINDINGS) == []


def test_a_picture_has_two_views_and_the_outline_of_the_truth(classifier: ZeroShotClassifier, rows: list[Row]) -> None:
    probability = columns([0.9, 0.1] + [0.5] * 6)
    tall, flat = gallery(classifier, rows, probability, labelled([1, 0, 1, 1] + [-1] * 4), FINDINGS)[:2]
    picture = pixels(tall)
    assert picture.shape[0] <= 360
    yellow = np.abs(picture - (240, 228, 66)).max(axis=2) <= 1
    left = yellow[:, : picture.shape[1] // 2]
    down, across = np.flatnonzero(left.any(axis=1)), np.flatnonzero(left.any(axis=0))
    scale = picture.shape[0] / 400
    assert np.abs(np.array([down[0], down[-1]]) - np.array([100, 300]) * scale).max() <= 3
    assert np.abs(np.array([across[0], across[-1]]) - np.array([10, 50]) * scale).max() <= 3
    assert not left[round(180 * scale) : round(220 * scale), round(20 * scale) : round(40 * scale)].any()
    middle = pixels(flat).shape[1] // 2
    half = pixels(flat)[:, : middle - 4]
    assert (half == half[0, 0]).all()
    redder = pixels(flat)[:, middle + 4 :]
    assert (redder[..., 0] - redder[..., 2] > 20).any()


def test_examples_contain_no_file_names_and_reports(classifier: ZeroShotClassifier, rows: list[Row]) -> None:
    for each in gallery(classifier, rows, columns([0.9] * 8), labelled([1] * 8), FINDINGS):
        assert b"secret" not in each.picture.lower()
        with Image.open(io.BytesIO(each.picture)) as picture:
            assert picture.info == {}


def test_the_same_images_give_the_same_bytes(classifier: ZeroShotClassifier, rows: list[Row]) -> None:
    arguments = (classifier, rows, columns([0.7] * 8), labelled([1, 0] * 4), FINDINGS)
    assert gallery(*arguments) == gallery(*arguments)


def test_an_untrained_fusion_head_shows_importance(quiet_transformers: None, rows: list[Row]) -> None:
    from lrclr.checkpoints import init_checkpoint

    untrained = ZeroShotClassifier.from_checkpoint(init_checkpoint("tiny"))
    example = gallery(untrained, rows, columns([0.1] + [0.9] * 7), labelled([0] + [1] * 7), FINDINGS)[0]
    bluer = pixels(example)[:, pixels(example).shape[1] // 2 + 4 :]
    assert (bluer[..., 2] - bluer[..., 0] > 20).any()
    assert not (bluer[..., 0] - bluer[..., 2] > 20).any()


def test_wrong_arguments_are_refused(classifier: ZeroShotClassifier, rows: list[Row], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="do not fit 8 images and 2 findings"):
        gallery(classifier, rows, columns([0.5] * 7), labelled([1] * 8), FINDINGS)
    lost = [Row(line=2, image=tmp_path / "lost.png")]
    with pytest.raises(ImageError):
        gallery(classifier, lost, columns([0.5]), labelled([1]), FINDINGS)
