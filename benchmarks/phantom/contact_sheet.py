"""A page of images with their labels and the outlines of their masks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from benchmarks.phantom.cases import FINDINGS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.phantom.picture import Picture

__all__ = ["contact_sheet"]

_COLOURS = ("#4fc3f7", "#ffb300", "#66bb6a", "#ef5350", "#ffee58", "#ff4fd8", "#b39ddb")
_PER_ROW, _CAPTION = 6, 30


def contact_sheet(pictures: Sequence[Picture]) -> Image.Image:
    """Draw pictures of one size, six in a row. The name of a finding has the colour of its outline."""
    height, width = pictures[0].pixels.shape
    rows = -(-len(pictures) // _PER_ROW)
    sheet = Image.new("RGB", (_PER_ROW * width, rows * (height + _CAPTION)))
    pen = ImageDraw.Draw(sheet)
    for number, picture in enumerate(pictures):
        left, top = number % _PER_ROW * width, number // _PER_ROW * (height + _CAPTION)
        tile = np.stack([picture.pixels] * 3, axis=-1)
        for bit, colour in enumerate(_COLOURS):
            region = picture.mask >> bit & 1 > 0
            tile[region & ~ndimage.binary_erosion(region)] = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
        sheet.paste(Image.fromarray(tile), (left, top + _CAPTION))
        named = [(name, colour) for name, colour in zip(FINDINGS, _COLOURS, strict=True) if name in picture.case.names]
        for at, (name, colour) in enumerate(named or [("No Finding", "white")]):
            pen.text((left + 4 + at % 2 * width // 2, top + 2 + at // 2 * 13), name, fill=colour)
    return sheet
