"""Draws the best and the worst heat maps of a checkpoint on one split of the phantom data set.

::

    python -m benchmarks.checkpoint.gallery build/phantom/manifest.csv build/lrclr -o gallery.png

Each row is a finding: two images whose attention is most on the finding, two whose attention is least on it, the image
with the finding whose probability is lowest, and the image without it whose probability is highest. Red patches have
the attention of the finding, and the yellow line is the border of its exact mask.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from benchmarks.checkpoint.images import rows_of_split
from benchmarks.commands import reports_errors
from benchmarks.phantom.cases import FINDINGS
from lrclr import ZeroShotClassifier

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lrclr.inference import Prediction

__all__ = ["gallery"]

_CAPTION = 16
_TINT = np.array([255.0, 40.0, 40.0])


@dataclass(frozen=True)
class _Shown:
    """One image and what the checkpoint answers for one finding.

    Attributes:
        image, mask: files.
        labelled: whether the image shows the finding.
        touching: share of the attention on regions that the mask touches, as in the pointing game; 0 without the
            finding.
        probability: of the finding.
        answer: all findings.
    """

    image: Path
    mask: Path
    labelled: bool
    touching: float
    probability: float
    answer: Prediction


def gallery(dataset: Path, checkpoint: Path, split: str, count: int) -> Image.Image:
    """Draw the gallery of the first images of a split.

    Args:
        dataset: manifest.csv of the phantom data set.
        checkpoint: folder of the checkpoint.
        split: the split.
        count: number of images.
    """
    rows = rows_of_split(dataset, split)[:count]
    answers = ZeroShotClassifier.from_checkpoint(checkpoint).predict([dataset.parent / row["image"] for row in rows])
    lines = []
    for bit, name in enumerate(FINDINGS):
        shown = [_judged(dataset.parent, row, answer, bit) for row, answer in zip(rows, answers, strict=True)]
        lines.append(np.concatenate([_tile(*chosen, bit) for chosen in _chosen(shown, name)], 1))
    return Image.fromarray(np.concatenate(lines))


def _judged(folder: Path, row: dict[str, str], answer: Prediction, bit: int) -> _Shown:
    finding, labelled = answer.finding(FINDINGS[bit]), row[FINDINGS[bit]] == "1"
    touching = 0.0
    if labelled:
        mask = _mask(folder / row["mask"], bit)
        for region, attention in zip(answer.regions, finding.region_attention, strict=True):
            left, top, right, bottom = (round(edge) for edge in region.box)
            touching += attention * mask[top:bottom, left:right].any()
    return _Shown(folder / row["image"], folder / row["mask"], labelled, touching, finding.probability, answer)


def _chosen(shown: list[_Shown], name: str) -> list[tuple[_Shown, str]]:
    present = sorted((each for each in shown if each.labelled), key=lambda each: each.touching)
    least = min(present, key=lambda each: each.probability)
    false = max((each for each in shown if not each.labelled), key=lambda each: each.probability)
    located = [(each, f"{name}: {each.touching:.0%} on it") for each in (*present[:-3:-1], *present[:2])]
    return [*located, (least, f"shown, {least.probability:.0%}"), (false, f"not shown, {false.probability:.0%}")]


def _tile(shown: _Shown, caption: str, bit: int) -> NDArray[np.uint8]:
    with Image.open(shown.image) as picture:
        tile = np.asarray(picture.convert("RGB"), np.float32).copy()
    attention = shown.answer.finding(FINDINGS[bit]).region_attention
    for region, share in zip(shown.answer.regions, attention, strict=True):
        left, top, right, bottom = (round(edge) for edge in region.box)
        part, strength = tile[top:bottom, left:right], 0.7 * share / max(attention)
        part += strength * (_TINT - part)
    mask = _mask(shown.mask, bit)
    tile[mask & ~ndimage.binary_erosion(mask)] = (255, 235, 60)
    framed = Image.new("RGB", (tile.shape[1], tile.shape[0] + _CAPTION))
    framed.paste(Image.fromarray(tile.astype(np.uint8)), (0, _CAPTION))
    ImageDraw.Draw(framed).text((4, 2), caption, fill="white")
    return np.asarray(framed)


def _mask(file: Path, bit: int) -> NDArray[np.bool_]:
    with Image.open(file) as mask:
        return (np.asarray(mask) >> bit & 1).astype(bool)


@reports_errors
def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.checkpoint.gallery", description="Draw best and worst heat maps.")
    parser.add_argument("dataset", type=Path, help="manifest.csv of the phantom data set")
    parser.add_argument("checkpoint", type=Path, help="folder of the checkpoint")
    parser.add_argument("-o", "--output", type=Path, required=True, help="PNG file to write")
    parser.add_argument("--split", default="external", help="split of the images")
    parser.add_argument("--count", type=int, default=500, help="number of images to choose from")
    options = parser.parse_args()
    gallery(options.dataset, options.checkpoint, options.split, options.count).save(options.output, optimize=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
