"""A picture of a `Prediction`: which regions were selected, and how much attention each finding pays to them.

Boxes are tinted, not blurred into a smooth map: the network sees whole patches, and a smooth map would show a precision
that it does not have. Every tint grows from zero, on one scale for all panels. In the panel of a finding below 50 %,
all tints are fainter, in proportion to the probability: attention says where the model looks for a finding, also if
the finding is absent.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import ImageOps
from PIL.PngImagePlugin import PngInfo

from lrclr._files import write_whole
from lrclr.errors import ImageError, UsageError
from lrclr.inference import drawing as draw
from lrclr.text import unknown_finding

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from PIL import Image

    from lrclr.inference._results import FindingResult, Prediction
    from lrclr.inference.drawing import Box, Style

_MAX_PIXELS = 100_000_000
_MOST_BARS = 20
_LABELS = 5
_PRESENT = 0.5  # the probability from which a finding is drawn at full strength
_UNTRAINED = "The fusion head is not trained: region attention has no meaning and is not shown."
_DISCLAIMER = "Research use only. Not a medical device."


@dataclass(frozen=True)
class _Patch:
    """A selected patch with a part in the image.

    Attributes:
        box: in pixels of a panel's picture.
        places: its positions among the prediction's regions.
        importance: sum over these positions.
    """

    box: Box
    places: tuple[int, ...]
    importance: float

    def attention(self, finding: FindingResult) -> float:
        """A finding's attention on it, summed over the times it was picked."""
        return sum(finding.region_attention[place] for place in self.places)


def draw_heatmap(
    image: NDArray[np.uint8],
    prediction: Prediction,
    *,
    findings: Sequence[str] | None = None,
    columns: int = 3,
    panel_width: int = 480,
    title: str | None = None,
) -> Image.Image:
    """Draw a radiograph with the regions that were selected and, for each finding, the attention on them.

    Panels are in the order of probability. A finding below 50 % has fainter tints, a grey caption and no numbers.
    A patch that several heads picked is drawn once, with importance and attention summed. If the fusion head is not
    trained, no attention is drawn. Letters that the font lacks appear without their accent, or as an empty box.

    Args:
        image: uint8 ``[H, W]`` or ``[H, W, 3]``, the one that was predicted; it is not changed.
        prediction: the answer for it.
        findings: names of the findings that get a panel; the ``2 * columns - 1`` most probable if not given.
        columns: most panels in a row.
        panel_width: width of a panel, in pixels, from 160 to 2000; everything else is in proportion.
        title: title of the picture.

    Returns:
        An RGB picture.

    Raises:
        UsageError: a finding was not predicted, the image is not the prediction's, or a size is out of bounds.
        ImageError: `image` is not an image that can be drawn on.
    """
    _check(image, prediction)
    if not 160 <= panel_width <= 2000 or not 1 <= columns <= 12:
        raise UsageError(
            f"a heat map cannot have {columns} columns of panels {panel_width} pixels wide",
            fix="Use 1 to 12 columns, and 160 to 2000 pixels.",
        )
    shown = _shown(prediction, findings, columns)
    style = draw.Style(panel_width)
    radiograph = draw.fitted(image, style)
    if (len(shown) + 2) * panel_width * (radiograph.height + 8 * style.small) > _MAX_PIXELS:
        raise UsageError(f"a heat map of {len(shown)} findings is too large", fix="Name fewer, or use narrower panels.")
    patches = patches_in(prediction, radiograph.size)
    top_attention = max((patch.attention(finding) for finding in shown for patch in patches), default=0.0)
    panels = [_regions_panel(radiograph, patches, prediction, style)]
    panels += [_finding_panel(radiograph, patches, finding, top_attention, style) for finding in shown]
    columns = math.ceil(len(panels) / math.ceil(len(panels) / columns)) if shown else min(columns, 2)
    rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    free = columns - len(rows[-1])
    listing = _listing(prediction, free or columns, style)
    rows = [*rows[:-1], [*rows[-1], listing]] if free else [*rows, [listing]]
    blocks = [
        _header(title or "Findings and selected regions", prediction, columns, style),
        *(draw.stack(row, style.gap, across=True) for row in rows),
        _legend(patches, top_attention if shown else None, columns, style),
        _footer(prediction, columns, style),
    ]
    return ImageOps.expand(draw.stack(blocks, style.gap), style.gap, draw.BACKGROUND)


def save_heatmap(
    path: str | os.PathLike[str],
    image: NDArray[np.uint8],
    prediction: Prediction,
    *,
    findings: Sequence[str] | None = None,
    columns: int = 3,
    panel_width: int = 480,
    title: str | None = None,
) -> None:
    """Write what `draw_heatmap` draws as a PNG, whole or not at all. A file that is there is replaced.

    The file's metadata name this package and say "research use only", nothing about the image.

    Raises:
        UsageError: as `draw_heatmap`, or `path` does not end in ``.png``.
        ImageError: as `draw_heatmap`.
        LrclrError: the file cannot be written; what was there before is unchanged.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise UsageError(f"a heat map cannot be written to {path}", why="its name does not end in .png")
    picture = draw_heatmap(image, prediction, findings=findings, columns=columns, panel_width=panel_width, title=title)
    write_whole(path, png_bytes(picture))


def png_bytes(picture: Image.Image) -> bytes:
    """A heat map as a PNG file, as `save_heatmap` writes it."""
    notes = PngInfo()
    notes.add_text("Software", "lrclr")
    notes.add_text("Comment", "research use only")
    content = io.BytesIO()
    picture.save(content, "PNG", pnginfo=notes)
    return content.getvalue()


def _check(image: NDArray[np.uint8], prediction: Prediction) -> None:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        raise ImageError(f"an image must be an array of uint8, not {getattr(image, 'dtype', type(image).__name__)}")
    if image.ndim not in {2, 3} or image.shape[2:] not in {(), (3,)} or image.size == 0:
        raise ImageError(f"an image must have the shape [H, W] or [H, W, 3], not {list(image.shape)}")
    if image.shape[:2] != (prediction.height, prediction.width):
        raise UsageError(
            f"the image is {image.shape[0]} x {image.shape[1]}, but the prediction is for one of"
            f" {prediction.height} x {prediction.width}",
            fix="Draw on the image that was predicted.",
        )
    numbers = [region.importance for region in prediction.regions]
    for finding in prediction.findings:
        if len(finding.region_attention) != len(prediction.regions):
            raise UsageError(
                f"{finding.name} has attention on {len(finding.region_attention)} regions,"
                f" but the prediction has {len(prediction.regions)}"
            )
        numbers += [finding.probability, *finding.region_attention]
    if not all(math.isfinite(number) for number in numbers):
        raise UsageError("the prediction holds NaN or infinity")


def _shown(prediction: Prediction, names: Sequence[str] | None, columns: int) -> list[FindingResult]:
    known = {finding.name: finding for finding in prediction.findings}
    for name in names or ():
        if name not in known:
            raise unknown_finding(name, known)
    if not prediction.fusion_trained:
        return []
    ranked = _by_probability(prediction)
    return ranked[: 2 * columns - 1] if names is None else [finding for finding in ranked if finding.name in names]


def _by_probability(prediction: Prediction) -> list[FindingResult]:
    return sorted(prediction.findings, key=lambda finding: -finding.probability)


def patches_in(prediction: Prediction, size: tuple[int, int]) -> list[_Patch]:
    """The selected patches with a part in the image, in the order they were first picked."""
    places: dict[int, list[int]] = {}
    for place, region in enumerate(prediction.regions):
        places.setdefault(region.patch, []).append(place)
    patches = []
    for same in places.values():
        sides = prediction.regions[same[0]].box
        limits = (prediction.width, prediction.height) * 2
        left, top, right, bottom = (min(max(side, 0.0), limit) for side, limit in zip(sides, limits, strict=True))
        if right > left and bottom > top:
            x0, x1 = _pixels(left / prediction.width, right / prediction.width, size[0])
            y0, y1 = _pixels(top / prediction.height, bottom / prediction.height, size[1])
            importance = sum(prediction.regions[place].importance for place in same)
            patches.append(_Patch((x0, y0, x1, y1), tuple(same), importance))
    return patches


def _pixels(start: float, end: float, size: int) -> tuple[int, int]:
    """A stretch of a side as pixels, at least one."""
    first = min(round(start * size), size - 1)
    return first, max(round(end * size), first + 1)


def _share(value: float, highest: float) -> float:
    return min(max(value / highest, 0.0), 1.0) if highest > 0 else 0.0


def _regions_panel(
    radiograph: Image.Image, patches: Sequence[_Patch], prediction: Prediction, style: Style
) -> Image.Image:
    picture = radiograph.copy()
    highest = max((patch.importance for patch in patches), default=0.0)
    for patch in patches:
        draw.tint(picture, patch.box, draw.IMPORTANCE, _share(patch.importance, highest), style.line)
    repeated = [(patch.box, f"x{len(patch.places)}") for patch in patches if len(patch.places) > 1]
    draw.label_boxes(picture, repeated, [patch.box for patch in patches], style)
    inside = sum(len(patch.places) for patch in patches)
    note = f"{inside} region{'' if inside == 1 else 's'}"
    note += f" on {len(patches)} patch{'' if len(patches) == 1 else 'es'}" if repeated else ""
    note += f", {len(prediction.regions) - inside} more outside the image" if inside < len(prediction.regions) else ""
    return draw.panel(draw.caption("Selected regions", "", note, style), picture, style)


def _finding_panel(
    radiograph: Image.Image, patches: Sequence[_Patch], finding: FindingResult, highest: float, style: Style
) -> Image.Image:
    picture = radiograph.copy()
    ranked = sorted(((patch.attention(finding), patch.box) for patch in patches), reverse=True)
    presence = _share(finding.probability, _PRESENT)
    for attention, box in reversed(ranked):
        draw.tint(picture, box, draw.ATTENTION, _share(attention, highest), style.line, presence)
    labels = [(box, f"{share:.0%}") for share, box in ranked[:_LABELS] if share >= 0.005 and presence == 1.0]
    draw.label_boxes(picture, labels, [box for _, box in ranked], style)
    outside = sum(finding.region_attention) - sum(share for share, _ in ranked)
    note = f"strongest region has {ranked[0][0]:.0%} of the attention" if ranked else "no region in the image"
    note += f", outside the image {outside:.0%}" if ranked and outside >= 0.005 else ""
    colour = draw.TEXT if presence == 1.0 else draw.DIM
    head = draw.caption(finding.name, _percent(finding), note, style, colour)
    return draw.panel(head, picture, style)


def _listing(prediction: Prediction, columns: int, style: Style) -> Image.Image:
    ranked = [(finding.name, finding.probability, _percent(finding)) for finding in _by_probability(prediction)]
    name = "All findings" if len(ranked) <= _MOST_BARS else f"{_MOST_BARS} most probable of {len(ranked)} findings"
    note = "Positive against negative prompts; not the probability of disease"
    if any(finding.probability_spread is not None for finding in prediction.findings):
        note += "; ± how far the members of the ensemble disagree"
    head = draw.caption(name, "", note, style)
    return draw.stack([head, draw.bar_list(ranked[:_MOST_BARS], columns, style)], style.scaled(8, 3))


def _percent(finding: FindingResult) -> str:
    return draw.percent(finding.probability, finding.probability_spread)


def _width(columns: int, style: Style) -> int:
    return columns * style.panel_width + (columns - 1) * style.gap


def _header(title: str, prediction: Prediction, columns: int, style: Style) -> Image.Image:
    width = _width(columns, style)
    head = draw.text_block(title, width, style.title, wrap=False)
    return head if prediction.fusion_trained else draw.stack([head, draw.text_block(_UNTRAINED, width, style.small)], 4)


def _legend(patches: Sequence[_Patch], top_attention: float | None, columns: int, style: Style) -> Image.Image:
    importance = max((patch.importance for patch in patches), default=0.0)
    note = "Attention rollout on the patch, from the image alone"
    if any(len(patch.places) > 1 for patch in patches):
        note += "; x3: three heads picked it, their values are summed"
    bars = [draw.scale_bar("Importance", note, draw.IMPORTANCE, f"{importance:.3g}", style)]
    if top_attention is not None:
        note = "Of the finding's positive prompts. One scale for all panels; fainter if the finding is below 50%"
        bars.append(draw.scale_bar("Region attention", note, draw.ATTENTION, f"{top_attention:.0%}", style))
    return draw.stack(bars, style.gap, across=columns > 1)


def _footer(prediction: Prediction, columns: int, style: Style) -> Image.Image:
    width = _width(columns, style)
    alpha = f"alpha = {prediction.alpha:.3g} (weight of the local score in the probabilities)"
    return draw.stack(
        [draw.text_block(_DISCLAIMER, width, style.small), draw.text_block(alpha, width, style.small, draw.DIM)], 0
    )
