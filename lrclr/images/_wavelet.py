"""JPEG 2000 frames without their finest levels, through Pillow.

A level less is a quarter of the work, for the codec keeps the picture at a half, a quarter, an eighth of its edges. The
price is that the values are shown after they were averaged and not before, and that fine detail is lost or added to. So
the frame is decoded in full where it is not known to come out the same:

- without a VOI: the range is that of the single pixels, which are not decoded;
- where a window clips, a LUT bends or padding cuts within a neighbourhood of unequal values (`_doubts`);
- where the picture has so fine and strong detail, burnt-in letters above all, that the filters show (`_doubts`);
- where the levels that would be left out have strong detail of which the rest shows nothing, as fine patterns have
  (`_hidden`);
- where the picture is nearly flat: `read_image` rounds each sample to a whole grey level, and with few levels in the
  picture these errors do not average out;
- lossless frames of less than 10 bits, of which the codec loses track by rounding;
- colour, signs or depths that the attributes and the codestream do not agree on, HTJ2K, offsets, tiles, and whatever
  does not end where it should.
"""

from __future__ import annotations

import struct
from io import BytesIO
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from PIL import Image
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile

from lrclr.images._arrays import look_up
from lrclr.images._codestream import Codec, jpeg2000_coding, jpeg2000_wavelet, with_headroom
from lrclr.images._dicom_luts import display_of
from lrclr.images._display import shades_of
from lrclr.images._packets import bands_of
from lrclr.images._reduced import ReducedImage
from lrclr.images._resize import resized_size

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lrclr.images._codestream import Wavelet
    from lrclr.images._dicom_attributes import Attributes
    from lrclr.images._dicom_frame import Frame, FrameLayout
    from lrclr.images._packets import Band
    from lrclr.images._reduced import Box, Wanted

__all__ = ["reduced_wavelet"]

_GREY = frozenset({"MONOCHROME1", "MONOCHROME2"})
# How much doubt is let pass, in grey levels of what the model is given. By the display: at most, and on average. By
# fine detail: at most with one level left out, with several, and on average. Measured on letters, lines and edges of
# every contrast: what passes is wrong by at most 4, and by less than half a level on average.
_BEND, _MEAN_BEND = 2.0, 0.25
_DETAIL, _MEAN_DETAIL = (10.0, 16.0), 1.5
# Amplitudes of what is left out that are let pass, in grey levels; and those that an edge of one grey level explains.
_HIDDEN, _EXPLAINED = 12.0, 0.5
# Grey levels that a picture spans at least. Weaker patterns than `_HIDDEN` alone span less.
_LEAST_SPAN = 32.0
# With so many times the doubt that is let pass, a level more would not be enough.
_HOPELESS = 1.7
# The reversible wavelet rounds up, by half a step for each level that is left out: too much if there are few steps.
_LEAST_BITS = 10
# Bits above those of a sample: a thin line that is white already comes out brighter from a low-pass filter.
_HEADROOM = 2


def reduced_wavelet(attributes: Attributes, frame: Frame, wanted: Wanted) -> ReducedImage | None:
    """Decode a frame at a part of its size for display; None if it must be decoded in full.

    Raises:
        ImageError: the picture is too narrow for the recipe.
        Exception: nearly any other, if the pixel data are damaged.
    """
    layout, codestream = frame.layout, frame.codestream
    if frame.codec is not Codec.JPEG_2000 or layout.photometric not in _GREY or layout.bits_stored < 8:
        return None
    wavelet = _known(jpeg2000_wavelet(codestream), layout)
    display = display_of(attributes, layout)
    most = min(wanted.levels(layout.rows, layout.columns), wavelet.levels if wavelet else 0)
    bands = _left_out(codestream) if most and display.voi is not None else None
    if wavelet is None or bands is None:
        return None
    least, greatest = _ends(wavelet)
    values = np.arange(least, greatest + 1, dtype=np.float64)
    table = shades_of(values, np.ones(values.shape, np.bool_), display)
    steepest = _steepest(table)
    size = resized_size(wanted.spec, layout.rows, layout.columns)
    for levels in range(most, 0, -1):
        stored, detail = _decoded(codestream, levels, wavelet)
        picture = ReducedImage(_shown(stored, table, least), layout.rows, layout.columns, _box(layout, levels))
        bend, detail = (
            np.asarray(Image.fromarray(doubt).resize(size[::-1], Image.Resampling.BOX, box=picture.box))
            for doubt in _doubts(stored, detail, table, wavelet)
        )
        most_doubt = max(bend.max() / _BEND, detail.max() / _DETAIL[levels > 1])
        if float(np.ptp(picture.pixels)) < _LEAST_SPAN or _hidden(bands, picture.pixels, levels, steepest):
            return None
        if most_doubt <= 1 and bend.mean() <= _MEAN_BEND and detail.mean() <= _MEAN_DETAIL:
            return picture
        if most_doubt > _HOPELESS:
            return None
    return None


def _known(wavelet: Wavelet | None, layout: FrameLayout) -> Wavelet | None:
    """Return `wavelet` if it can be trusted to give the same picture, and is what the attributes say."""
    if wavelet is None or wavelet.bits > 16 or (wavelet.reversible and wavelet.bits < _LEAST_BITS):
        return None
    agreed = (layout.bits_stored, layout.signed, layout.bits_stored - 1)
    return wavelet if (wavelet.bits, wavelet.signed, layout.high_bit) == agreed else None


def _box(layout: FrameLayout, levels: int) -> Box:
    # The first value stands for the first pixel and not for the middle of a block.
    part = 2**levels
    begin = (1 - 1 / part) / 2
    return begin, begin, begin + layout.columns / part, begin + layout.rows / part


def _left_out(codestream: bytes) -> list[Band] | None:
    """Return the bands of a codestream; None if they cannot be made out, damaged ones among them."""
    found = jpeg2000_coding(codestream)
    try:
        return None if found is None else bands_of(*found)
    except (IndexError, struct.error):
        # The decoder has the last word.
        return None


def _steepest(table: NDArray[np.uint8]) -> float:
    """Return by how many grey levels the display rises at most for a step of a sample. Levels are rounded: one less."""
    shown = table.astype(np.int32)
    steps = [4**power for power in range(9) if 4**power <= len(table) // 16]
    return float(max((np.abs(shown[step:] - shown[:-step]).max() - 1) / step for step in steps))


def _hidden(bands: list[Band], pixels: NDArray[Any], levels: int, steepest: float) -> bool:
    """Tell whether strong detail is left out that no edge in the rest explains.

    Edges have strong coefficients, too. They can be seen in the rest, and fine patterns cannot.
    """
    whole = np.rint(pixels).astype(np.int32)
    edges = (_around(whole, np.maximum) - _around(whole, np.minimum)) * _EXPLAINED
    for band in bands:
        if band.level > levels:
            continue
        width, height = (part * 2**band.level // 2**levels for part in band.block)
        amplitudes = np.minimum(band.greatest * steepest, 255.0)
        for row, column in np.argwhere(amplitudes > _HIDDEN):
            top, left = max(0, row * height - 1), max(0, column * width - 1)
            around = edges[top : (row + 1) * height + 2, left : (column + 1) * width + 2]
            if amplitudes[row, column] > around.max(initial=0):
                return True
    return False


class _Part(Jpeg2KImageFile):
    """Pillow rounds the size of what remains to the nearest whole number, and its decoder up."""

    def leave_out(self, levels: int) -> None:
        """Decode without the finest levels of the wavelet."""
        width, height = (-(-side // 2**levels) for side in self.size)
        self._size = width, height
        (tile,) = self.tile
        codec, _, *rest = cast("tuple[Any, ...]", tile.args)
        self.tile = [tile._replace(extents=(0, 0, width, height), args=(codec, levels, *rest))]


def _ends(wavelet: Wavelet) -> tuple[int, int]:
    """Return the least and the greatest value that a sample can have."""
    least = -(2 ** (wavelet.bits - 1)) if wavelet.signed else 0
    return least, least + 2**wavelet.bits - 1


def _decoded(codestream: bytes, levels: int, wavelet: Wavelet) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the values without the finest levels, and their fine detail: how much the filter of one may be wrong."""
    bits = wavelet.bits
    if wavelet.reversible:
        bits += _HEADROOM
        codestream = with_headroom(codestream, _HEADROOM)
    image = _Part(BytesIO(codestream))
    image.leave_out(levels)
    values = np.asarray(image).astype(np.float32)
    # Pillow moves the bits of a sample to the upper end of 16, and makes the least value 0.
    values *= np.float32(2.0 ** (bits - (8 if image.mode == "L" else 16)))
    values += np.float32(_ends(wavelet)[0] + 2 ** (wavelet.bits - 1) - 2 ** (bits - 1))
    # The last value may not reach to the edge of the picture.
    values = np.pad(values, ((0, 1), (0, 1)), mode="edge")
    evened = _evened(values, levels)
    return (evened, evened - values) if wavelet.reversible else (values, evened - values)


def _evened(values: NDArray[np.float32], levels: int) -> NDArray[np.float32]:
    """Undo what the low-pass filter of the reversible wavelet, (-1, 2, 6, 2, -1) / 8, adds to fine detail.

    Its response is 1 + w**2 / 4 for small frequencies w, once a level; of the values that remain it is 1 + a * w**2.
    """
    a = np.float32(sum(4**level for level in range(levels)) / 4 ** (levels + 1))
    for _ in range(2):
        outer = np.pad(values, ((1, 1), (0, 0)), mode="edge")
        values = (values + a * (outer[:-2] - 2 * values + outer[2:])).T
    return np.ascontiguousarray(values)


def _shown(
    stored: NDArray[np.float32], table: NDArray[np.uint8], least: int
) -> NDArray[np.uint8] | NDArray[np.float32]:
    if not _is_straight(table):
        return look_up(table, np.rint(stored).astype(np.int32), least)
    shown: NDArray[np.float32] = (stored - least) * _slope(table) + np.float32(table[0])
    return shown


def _is_straight(table: NDArray[np.uint8]) -> bool:
    line = np.linspace(float(table[0]), float(table[-1]), len(table))
    return bool(np.abs(table - line).max() <= 1)


def _slope(table: NDArray[np.uint8]) -> np.float32:
    return np.float32((float(table[-1]) - float(table[0])) / (len(table) - 1))


def _doubts(
    stored: NDArray[np.float32], detail: NDArray[np.float32], table: NDArray[np.uint8], wavelet: Wavelet
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return by how many grey levels each pixel may be wrong, by the display and by the filters."""
    if _is_straight(table) and wavelet.reversible:
        return np.zeros_like(stored), np.abs(detail * _slope(table))
    least, most = _ends(wavelet)
    whole = np.rint(stored).astype(np.int32)
    low, high = _around(whole, np.minimum), _around(whole, np.maximum)
    dark, bright = (look_up(table, end, least).astype(np.float32) for end in (low, high))
    # Shown, a mean of two values differs from the mean of the two when they are shown, by as much as the display is
    # from straight between the least and the greatest value nearby.
    bend = np.zeros(stored.shape, np.float32)
    for quarter in (1, 2, 3):
        shown = look_up(table, low + (high - low) * quarter // 4, least)
        np.maximum(bend, np.abs(shown - (dark + (bright - dark) * np.float32(quarter / 4))), out=bend)
    # Levels are whole: so much is rounding.
    bend = np.maximum(bend - 1, 0)
    if not wavelet.reversible:
        # Its filters overshoot at edges, where the decoder cuts off what no sample can have.
        bend += np.abs(bright - dark) / 4 * ((whole <= least) | (whole >= most))
    before = look_up(table, np.rint(stored - detail).astype(np.int32), least).astype(np.float32)
    after = look_up(table, whole, least).astype(np.float32)
    return bend, np.abs(after - before)


def _around(stored: NDArray[np.int32], extreme: np.ufunc) -> NDArray[np.int32]:
    """Return the extreme of each pixel and its eight neighbours."""
    found = stored.copy()
    extreme(found[1:], stored[:-1], out=found[1:])
    extreme(found[:-1], stored[1:], out=found[:-1])
    rows = found.copy()
    extreme(found[:, 1:], rows[:, :-1], out=found[:, 1:])
    extreme(found[:, :-1], rows[:, 1:], out=found[:, :-1])
    return found
