"""Images that show where a model is right and where it is wrong, finding by finding. They never leave the page."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image, ImageFilter

from lrclr.errors import UsageError
from lrclr.evaluation._result import Example
from lrclr.images import read_for_model, read_image
from lrclr.inference import drawing as draw
from lrclr.text import finding_key

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from lrclr.datasets import Row
    from lrclr.inference import Prediction, ZeroShotClassifier
    from lrclr.text import FindingSet

__all__ = ["gallery"]

_WIDTH: Final = 280  # of a picture; the tallest is a quarter higher
_GAP: Final = 6
_LABELS: Final = 3
# Yellow is in neither tint, and differs from both in brightness.
_TRUTH: Final = (240, 228, 66)
# The page shows pictures at about half their size, in which the letters of a panel of this width can still be read.
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
    """For each finding the images that have it and are most and least probable, and those without that are most so.

    An image that has the finding counts as missed only if one without is more probable, and an image without as a false
    alarm only if one that has it is less probable: where the model is right, fewer are shown.

    A picture shows the radiograph, with the outline of the finding's mask or boxes if the row has them, beside the
    selected regions in the tint of the region attention, the strongest region's at full strength. If the fusion head
    was never trained, importance takes its place. It holds no name, path or report.

    Args:
        classifier: the model.
        rows: N images.
        probability: ``[N, F]``, of the evaluation.
        labels: ``[N, F]``: 1 present, 0 absent; anything else does not count.
        findings: F.
        per_kind: most images of each kind a finding.
        exact: how the evaluation read the images; see `lrclr.images.read_for_model`. They are drawn in full.

    Returns:
        Finding by finding; in each the best, the missed and the false alarms.

    Raises:
        UsageError: the shapes do not match.
        ImageError: an image or a mask cannot be read.
    """
    shape = (len(rows), len(findings.names))
    if probability.shape != shape or labels.shape != shape:
        raise UsageError(
            f"probabilities {list(probability.shape)} and labels {list(labels.shape)} do not belong to"
            f" {shape[0]} images and {shape[1]} findings"
        )
    picks = [
        pick
        for finding in range(shape[1])
        for pick in _picked(finding, probability[:, finding], labels[:, finding], per_kind)
    ]
    pictures: dict[_Pick, bytes] = {}
    # Image by image, so that each is read and answered for once, and only one is held in memory.
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
    # Where there are few, an image is shown once: the more probable half can be among the best only.
    best = positive[: min(count, (len(positive) + 1) // 2)]
    missed = [n for n in reversed(positive[len(best) :]) if probability[n] < highest][:count]
    alarms = [n for n in negative if probability[n] > lowest][:count]
    for kind, picked in (("best", best), ("missed", missed), ("false alarm", alarms)):
        yield from (_Pick(finding, kind, n) for n in picked)


def _picture(image: NDArray[np.uint8], prediction: Prediction, finding: str, row: Row) -> Image.Image:
    from lrclr.datasets import row_mask

    radiograph = draw.fitted(image, draw.Style(_WIDTH))
    # The dataset may spell the finding in other letters than the model.
    spelt = (name for name in (*row.masks, *row.boxes) if finding_key(name) == finding_key(finding))
    mask = row_mask(row, next(spelt, finding), (prediction.height, prediction.width))
    if mask is not None:
        radiograph.paste(_TRUTH, (0, 0), _outline(mask, radiograph.size))
    tinted = radiograph.copy()
    _tint(tinted, prediction, finding)
    return draw.stack([radiograph, tinted], _GAP, across=True)


def _tint(picture: Image.Image, prediction: Prediction, finding: str) -> None:
    """As in the heat maps: patches that several heads picked are drawn once, with their weights summed."""
    if prediction.fusion_trained:
        weights, colour = prediction.finding(finding).region_attention, draw.ATTENTION
    else:
        weights, colour = tuple(region.importance for region in prediction.regions), draw.IMPORTANCE
    total: dict[draw.Box, float] = {}
    across, down = picture.width / prediction.width, picture.height / prediction.height
    for region, weight in zip(prediction.regions, weights, strict=True):
        left, top, right, bottom = region.box
        box = (
            round(max(left, 0.0) * across),
            round(max(top, 0.0) * down),
            round(min(right, prediction.width) * across),
            round(min(bottom, prediction.height) * down),
        )
        # A patch of padding alone has no part in the image.
        if box[2] > box[0] and box[3] > box[1]:
            total[box] = total.get(box, 0.0) + weight
    ranked = sorted(total.items(), key=lambda each: (-each[1], each[0]))
    strongest = max(total.values(), default=0.0)
    for box, weight in reversed(ranked):
        draw.tint(picture, box, colour, weight / strongest if strongest > 0 else 0.0, 2)
    if prediction.fusion_trained:
        labels = [(box, f"{weight:.0%}") for box, weight in ranked[:_LABELS] if weight >= 0.005]
        draw.label_boxes(picture, labels, list(total), _LETTERS)


def _outline(mask: NDArray[np.bool_], size: tuple[int, int]) -> Image.Image:
    """A line around a mask, on its outside, so that small findings are not painted over."""
    grey = Image.fromarray(mask.astype(np.uint8) * 255)
    # Any pixel of the mask counts, however small it becomes: the mean over a block would lose a thin finding.
    small = np.asarray(grey.resize(size, Image.Resampling.BOX)) > 0
    wide = np.asarray(Image.fromarray(small.astype(np.uint8) * 255).filter(ImageFilter.MaxFilter(5))) > 0
    return Image.fromarray((wide & ~small).astype(np.uint8) * 255)


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    # The lowest bit is noise to the eye and a sixth of the bytes. A palette saves no more, and stains the tints.
    picture.point([value & 0xFE for value in range(256)] * 3).save(buffer, "PNG")
    return buffer.getvalue()
