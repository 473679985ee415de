"""Example images with right and wrong answers for each finding. They are part of the HTML page only."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image, ImageFilter

from lrclr.errors import UsageError
from lrclr.evaluation._grounding import spelling_in
from lrclr.evaluation._result import Example
from lrclr.images import read_for_model, read_image
from lrclr.inference import drawing as draw
from lrclr.inference._heatmap import patches_in

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from lrclr.datasets import Row
    from lrclr.inference import Prediction, ZeroShotClassifier
    from lrclr.text import FindingSet

_WIDTH: Final = 280  # of a picture; the tallest is a quarter higher
_GAP: Final = 6
_LABELS: Final = 3
# Yellow, which neither tint contains, and which differs from both in brightness.
_TRUTH: Final = (240, 228, 66)
# Letters that are readable at half the size, as the page shows them.
_LETTERS: Final = draw.Style(560)


@dataclass(frozen=True)
class _Pick:
    finding: int
    kind: str
    row: int


def gallery(
    classifier: ZeroShotClassifier,
    rows: Sequence[Row],
    probability: NDArray[np.floating],
    labels: NDArray[np.integer],
    findings: FindingSet,
    *,
    per_kind: int = 3,
    exact: bool = False,
) -> list[Example]:
    """For each finding, images with it of highest and lowest probability, and images without it of highest probability.

    An image with the finding counts as missed only if an image without it has a higher probability, and an image
    without it as a false alarm only if an image with it has a lower one.

    A picture shows the radiograph with the outline of the finding's mask or boxes, if the row has them, beside the
    selected regions tinted by region attention, relative to the strongest. Without a trained fusion head, importance is
    used. A picture contains no name, path or report.

    Args:
        classifier: the model.
        rows: N images.
        probability: ``[N, F]``, probabilities of the evaluation.
        labels: ``[N, F]``: 1 present, 0 absent; other values do not count.
        findings: F findings.
        per_kind: most images of each kind for a finding.
        exact: how the evaluation read the images; see `lrclr.images.read_for_model`. They are drawn in full.

    Returns:
        For each finding the best, the missed and the false alarms.

    Raises:
        UsageError: the shapes do not match.
        ImageError: an image or a mask cannot be read.
    """
    shape = (len(rows), len(findings.names))
    if probability.shape != shape or labels.shape != shape:
        raise UsageError(
            f"probabilities {list(probability.shape)} and labels {list(labels.shape)} do not fit"
            f" {shape[0]} images and {shape[1]} findings"
        )
    picks = [
        pick
        for finding in range(shape[1])
        for pick in _picked(finding, probability[:, finding], labels[:, finding], per_kind)
    ]
    pictures: dict[_Pick, bytes] = {}
    # Image by image: each is read and scored once, and one is in memory at a time.
    for row in dict.fromkeys(pick.row for pick in picks):
        file, frame = rows[row].image, rows[row].frame
        read = read_for_model(file, classifier.spec.preprocess, exact=exact, frame=frame)
        prediction = classifier.predict([read], findings=findings)[0]
        image = read_image(file, frame=frame)
        for pick in picks:
            if pick.row == row:
                name = findings.names[pick.finding]
                pictures[pick] = _png(_picture(image, prediction, name, rows[row]))
    return [
        Example(findings.names[pick.finding], pick.kind, float(probability[pick.row, pick.finding]), pictures[pick])
        for pick in picks
    ]


def _picked(
    finding: int, probability: NDArray[np.floating], labels: NDArray[np.integer], count: int
) -> Iterator[_Pick]:
    known = np.isfinite(probability)
    falling = [int(n) for n in np.argsort(-probability, kind="stable") if known[n]]
    positive = [n for n in falling if labels[n] == 1]
    negative = [n for n in falling if labels[n] == 0]
    if not positive or not negative:
        yield from (_Pick(finding, "best", n) for n in positive[:count])
        return
    highest, lowest = probability[negative[0]], probability[positive[-1]]
    # Each image is shown once: with few images, the more probable half are candidates for "best".
    best = positive[: min(count, (len(positive) + 1) // 2)]
    missed = [n for n in reversed(positive[len(best) :]) if probability[n] < highest][:count]
    alarms = [n for n in negative if probability[n] > lowest][:count]
    for kind, picked in (("best", best), ("missed", missed), ("false alarm", alarms)):
        yield from (_Pick(finding, kind, n) for n in picked)


def _picture(image: NDArray[np.uint8], prediction: Prediction, finding: str, row: Row) -> Image.Image:
    from lrclr.datasets import row_mask

    radiograph = draw.fitted(image, draw.Style(_WIDTH))
    spelling = spelling_in(row, finding) or finding
    mask = row_mask(row, spelling, (prediction.height, prediction.width))
    if mask is not None:
        radiograph.paste(_TRUTH, (0, 0), _outline(mask, radiograph.size))
    tinted = radiograph.copy()
    _tint(tinted, prediction, finding)
    return draw.stack([radiograph, tinted], _GAP, across=True)


def _tint(picture: Image.Image, prediction: Prediction, finding: str) -> None:
    """Tint the regions as in heat maps: a patch that several heads select is drawn once, with the sum of weights."""
    patches = patches_in(prediction, picture.size)
    if prediction.fusion_trained:
        answer, colour = prediction.finding(finding), draw.ATTENTION
        total = {patch.box: patch.attention(answer) for patch in patches}
    else:
        colour = draw.IMPORTANCE
        total = {patch.box: patch.importance for patch in patches}
    ranked = sorted(total.items(), key=lambda each: (-each[1], each[0]))
    strongest = max(total.values(), default=0.0)
    for box, weight in reversed(ranked):
        draw.tint(picture, box, colour, weight / strongest if strongest > 0 else 0.0, 2)
    if prediction.fusion_trained:
        labels = [(box, f"{weight:.0%}") for box, weight in ranked[:_LABELS] if weight >= 0.005]
        draw.label_boxes(picture, labels, list(total), _LETTERS)


def _outline(mask: NDArray[np.bool_], size: tuple[int, int]) -> Image.Image:
    """A line around a mask, outside of it, so that small findings stay visible."""
    grey = Image.fromarray(mask.astype(np.uint8) * 255)
    # Above 0, so that a single pixel of the mask counts: half of a block would lose a thin finding.
    small = np.asarray(grey.resize(size, Image.Resampling.BOX)) > 0
    wide = np.asarray(Image.fromarray(small.astype(np.uint8) * 255).filter(ImageFilter.MaxFilter(5))) > 0
    return Image.fromarray((wide & ~small).astype(np.uint8) * 255)


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    # Without the lowest bit, which is not visible and a sixth of the bytes.
    picture.point([value & 0xFE for value in range(256)] * 3).save(buffer, "PNG")
    return buffer.getvalue()
