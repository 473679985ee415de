"""A row at one draw: its text, its image, and its position in a batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lrclr.datasets import PixelCache, Row
from lrclr.errors import UsageError
from lrclr.preprocessing import PreprocessSpec
from lrclr.text import ClipTokenizer
from lrclr.training import Augmentation, TrainSettings

# Private: a run does not report the draws of a step.
from lrclr.training._augment import augment
from lrclr.training._data import Draws, Items, loader
from lrclr.training._texts import draw_text, sentences, text_key, whole_text

IMAGE = Path("image.png")
OFF = Augmentation.off()


@pytest.mark.parametrize(
    ("report", "labels", "expected"),
    [
        ("  Mild\n edema. ", {}, "Mild edema."),
        (None, {"Edema": 1, "Pneumothorax": 0, "Fracture": -1}, "Edema. No Pneumothorax."),
        (" -- ", {"Edema": 0}, "No Edema."),
        (None, {"No Finding": 0, "Edema": 1}, "Edema."),
        (None, {"No Finding": 1}, "No Finding."),
        (None, {"Edema": -1}, None),
        ("", {}, None),
    ],
)
def test_the_whole_text_is_used(report: str | None, labels: dict[str, int], expected: str | None) -> None:
    assert whole_text(Row(2, IMAGE, report, labels)) == expected


def test_text_is_split_into_sentences() -> None:
    text = "1. Nodule of 1.5 cm. 2. No effusion! Is it new?\n\nImpression: stable"
    assert sentences(text) == ("Nodule of 1.5 cm.", "No effusion!", "Is it new?", "Impression: stable")
    assert sentences("...") == ("...",)


def test_a_draw_contains_sentences_in_any_order() -> None:
    known = {"A one.", "B two.", "C three."}
    seen = {draw_text("A one. B two. C three.", "sentences", np.random.default_rng(n)) for n in range(200)}
    assert {"A one.", "B two.", "C three."} <= seen
    assert {"C three. A one.", "A one. C three."} <= seen
    # Three draws of one sentence, six of two, and six of three.
    assert len(seen) == 15
    assert all(set(sentences(text)) <= known for text in seen)
    assert draw_text("A one. B two.", "report", np.random.default_rng(0)) == "A one. B two."


def test_equal_texts_have_equal_keys() -> None:
    assert text_key("No edema.  Clear\nlungs.") == text_key("clear lungs. NO EDEMA.")
    assert text_key("No edema.") != text_key("Edema.")
    keys = [text_key(f"Report {n}.") for n in range(2000)]
    assert len(set(keys)) == 2000
    assert min(keys) < 0 <= max(keys)
    assert max(map(abs, keys)) < 2**63


@pytest.mark.parametrize("shape", [(64, 64), (64, 64, 3)])
def test_augmentation_depends_only_on_its_generator(shape: tuple[int, ...]) -> None:
    canvas = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    before = canvas.copy()
    first, repeated, different = (augment(canvas, Augmentation(), np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first.shape == shape
    assert first.dtype == np.uint8
    assert np.array_equal(first, repeated)
    assert not np.array_equal(first, different)
    assert np.array_equal(canvas, before)
    assert augment(canvas, OFF, np.random.default_rng(1)) is canvas


def test_augmentation_does_not_mirror_and_keeps_the_border_black() -> None:
    canvas = np.zeros((64, 64), np.uint8)
    canvas[16:48, 8:24] = 200
    for seed in range(50):
        changed = augment(canvas, Augmentation(), np.random.default_rng(seed))
        left, right = changed[:, :32].sum(dtype=np.int64), changed[:, 32:].sum(dtype=np.int64)
        assert left > 20 * right
        assert changed[:4].max() == 0
        assert changed[:, 48:].max() == 0


def test_shifts_have_the_drawn_size() -> None:
    canvas = np.zeros((100, 100), np.uint8)
    canvas[40:60, 40:60] = 255
    limits = Augmentation(0, 0, 0.1, 0, 0, 0, 0)
    draws = np.random.default_rng(5).uniform(-1, 1, 7)
    changed = augment(canvas, limits, np.random.default_rng(5)).astype(float)
    rows, columns = np.indices(canvas.shape)
    assert (changed * columns).sum() / changed.sum() == pytest.approx(49.5 + 10 * draws[2], abs=0.05)
    assert (changed * rows).sum() / changed.sum() == pytest.approx(49.5 + 10 * draws[3], abs=0.05)


@pytest.mark.parametrize(("field", "value"), [("rotation", 90), ("noise", -0.1), ("scale", True), ("shift", "far")])
def test_invalid_augmentation_is_refused(field: str, value: object) -> None:
    with pytest.raises(UsageError, match=field):
        Augmentation(**{field: value})  # type: ignore[arg-type]


def test_processes_together_draw_the_batches_of_one() -> None:
    plan = {"rows": 10, "batch": 4, "steps": 7, "seed": 3}
    alone = list(Draws(**plan))
    shared = zip(*(Draws(**plan, process=n, processes=2) for n in range(2)), strict=True)
    assert [first + second for first, second in shared] == alone
    assert len(alone) == len(Draws(**plan)) == 7
    # Two batches an epoch, without repeated rows.
    assert [batch[0][0] for batch in alone] == [0, 0, 1, 1, 2, 2, 3]
    for epoch in range(3):
        rows = [row for batch in alone for drawn, row in batch if drawn == epoch]
        assert len(set(rows)) == 8
    assert alone[0] != [(0, row) for _, row in alone[2]]


def test_images_of_one_study_are_positives_for_any_drawn_sentences(squares: Path, tmp_path: Path) -> None:
    report = "Mild edema. No effusion."
    others = ("No edema. No effusion.", "Stable nodule. Normal heart.")
    reports = [report, report, *others]
    rows = [Row(n + 2, squares / f"{n}.png", text) for n, text in enumerate(reports)]
    spec = PreprocessSpec.clip(32)
    pixels = PixelCache.build(rows, spec, tmp_path / "cache")
    items = Items(pixels, reports, spec, TrainSettings(text="sentences", augmentation=OFF))
    draws = [[(epoch, row) for row in range(4)] for epoch in range(60)]
    different = shared = 0
    for draw, batch in zip(draws, loader(items, draws, ClipTokenizer.default(), 0), strict=True):
        key = batch["text_key"]
        same = (key[:, None] == key[None, :]).any(-1)
        texts = [items[number]["text"] for number in draw]
        assert same[0, 1]
        assert not same[3, :3].any()
        assert bool(same[0, 2]) is (text_key(texts[0]) == text_key(texts[2]))
        different += text_key(texts[0]) != text_key(texts[1])
        shared += bool(same[0, 2] or same[1, 2])
    # The drawn sentences often differ. By the sentences alone, the images would be negatives of each other.
    assert different > 20
    # Two reports may also share a drawn sentence, and are then not negatives.
    assert shared >= 1
