"""Decodes JPEG 2000 frames without the finest levels of their wavelet, with Pillow.

The codec stores the picture at a half, a quarter, an eighth of its edges, and each omitted level divides the work by
four. But the display transformation is then applied after averaging and not before, and the filters change fine detail.
So a frame is decoded in full in these cases, in which the result could differ:

- the file has no VOI: the range of the values is that of single pixels, which are not decoded;
- a window clips, a LUT is not linear, or padding applies within a neighbourhood of unequal values (`_doubts`);
- the picture has fine and strong detail, such as burnt-in letters, in which the filters are visible (`_doubts`);
- the omitted levels have strong detail that is not visible in the other levels, such as fine patterns (`_hidden`);
- the picture is nearly flat: `read_image` rounds each sample to a whole grey level, and with few grey levels these
  errors do not average out;
- the frame is lossless with less than 10 bits: the codec's rounding errors are too large;
- the attributes and the codestream disagree about colour, signs or depth; or the codestream is HTJ2K, has offsets or
  several tiles, or does not end as it should.
"""

from __future__ import annotations

import struct
from io import BytesIO
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from PIL import Image
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile

from lrclr.images._arrays import look_up
from lrclr.images._codestream import Codec, jpeg2000_coding, jpeg2000_wavelet, with_headroom
from lrclr.images._dicom_layout import GREY
from lrclr.images._dicom_luts import display_of
from lrclr.images._display import shades_of
from lrclr.images._packets import bands_of
from lrclr.images._reduced import ReducedImage
from lrclr.images._resize import resized_size

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lrclr.images._codestream import Wavelet
    from lrclr.images._dicom_attributes import Attributes
    from lrclr.images._dicom_frame import Frame
    from lrclr.images._dicom_layout import FrameLayout
    from lrclr.images._packets import Band
    from lrclr.images._reduced import Wanted

# Bounds on the estimated error, in grey levels of the model's input: from the display and from fine detail, each as a
# maximum and as a mean. Measured on patterns, letters, lines and edges of every contrast, also along the border:
# accepted pictures differ by at most 4 levels, and by less than half a level on average.
_BEND, _MEAN_BEND = 2.0, 0.25
_DETAIL, _MEAN_DETAIL = 8.0, 1.5
# At the border, the filter of a resize is truncated, so the remaining pixels have greater weights.
_AT_BORDER = 2.0
# Allowed amplitude of omitted detail, in grey levels; and the amplitude that one grey level of an edge explains.
_HIDDEN, _EXPLAINED = 12.0, 0.5
# Least range of grey levels in the picture. A picture of patterns weaker than `_HIDDEN` has a smaller range.
_LEAST_SPAN = 32.0
# If the error exceeds its bound by this factor, omitting one level less would not be enough.
_HOPELESS = 1.7
# The reversible wavelet rounds up by half a step for each omitted level. With fewer bits this is too much.
_LEAST_BITS = 10
# Lifting steps of the reversible and the irreversible wavelet: weights for odd and for even samples, and the gain of
# the resulting low-pass filter (ISO/IEC 15444-1, F.4.8).
_LIFTING = {True: ((-0.5, 0.25),), False: ((-1.586134342, -0.052980118), (0.882911075, 0.443506852))}
_GAIN = {True: 1.0, False: 1.230174105}
# Number of neighbours for interpolation.
_TAPS = 8
# Additional bits of a sample: a low-pass filter can make a thin white line brighter than white.
_HEADROOM = 2


def reduced_wavelet(attributes: Attributes, frame: Frame, wanted: Wanted) -> ReducedImage | None:
    """Decode a frame at reduced size for display; None if it must be decoded in full.

    Raises:
        ImageError: the picture is too narrow for the preprocessing.
        Exception: nearly any other, if the pixel data are damaged.
    """
    layout, codestream = frame.layout, frame.codestream
    if frame.codec is not Codec.JPEG_2000 or layout.photometric not in GREY or layout.bits_stored < 8:
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
        stored, cut = _decoded(codestream, levels, wavelet, (layout.rows, layout.columns))
        detail = _detail(stored, levels, size)
        picture = ReducedImage(_shown(stored, table, least), layout.rows, layout.columns)
        bend, detail = (
            np.asarray(Image.fromarray(doubt).resize(size[::-1], Image.Resampling.BOX))
            for doubt in _doubts(stored, detail, cut, table, wavelet)
        )
        most_doubt = max(bend.max() / _BEND, detail.max() / _DETAIL)
        if float(np.ptp(picture.pixels)) < _LEAST_SPAN or _hidden(bands, picture.pixels, levels, steepest):
            return None
        if most_doubt <= 1 and bend.mean() <= _MEAN_BEND and detail.mean() <= _MEAN_DETAIL:
            return picture
        if most_doubt > _HOPELESS:
            return None
    return None


def _known(wavelet: Wavelet | None, layout: FrameLayout) -> Wavelet | None:
    """Return `wavelet` if decoding it at reduced size is safe and it matches the attributes, else None."""
    if wavelet is None or wavelet.bits > 16 or (wavelet.reversible and wavelet.bits < _LEAST_BITS):
        return None
    agreed = (layout.bits_stored, layout.signed, layout.bits_stored - 1)
    return wavelet if (wavelet.bits, wavelet.signed, layout.high_bit) == agreed else None


def _left_out(codestream: bytes) -> list[Band] | None:
    """Return the bands of a codestream; None if they are not supported or damaged."""
    found = jpeg2000_coding(codestream)
    try:
        return None if found is None else bands_of(*found)
    except (IndexError, struct.error):
        # Decoding in full will report the damage.
        return None


def _steepest(table: NDArray[np.uint8]) -> float:
    """Return the greatest slope of the display in grey levels for each step of a sample; one level is rounding."""
    shown = table.astype(np.int32)
    steps = [4**power for power in range(9) if 4**power <= len(table) // 16]
    return float(max((np.abs(shown[step:] - shown[:-step]).max() - 1) / step for step in steps))


def _hidden(bands: list[Band], pixels: NDArray[Any], levels: int, steepest: float) -> bool:
    """Return whether the omitted levels have strong detail that no edge in the decoded levels explains.

    Edges also have strong coefficients, but they are visible in the decoded levels; fine patterns are not. If most of
    the finest blocks are strong, there is a pattern over the whole picture.
    """
    whole = np.rint(pixels).astype(np.int32)
    edges = (_around(whole, np.maximum) - _around(whole, np.minimum)) * _EXPLAINED
    for band in bands:
        if band.level > levels:
            continue
        width, height = (part * 2**band.level // 2**levels for part in band.block)
        amplitudes = np.minimum(band.greatest * steepest, 255.0)
        if band.level == 1 and np.median(amplitudes) > _HIDDEN:
            return True
        for row, column in np.argwhere(amplitudes > _HIDDEN):
            top, left = max(0, row * height - 1), max(0, column * width - 1)
            around = edges[top : (row + 1) * height + 2, left : (column + 1) * width + 2]
            if amplitudes[row, column] > around.max(initial=0):
                return True
    return False


class _Part(Jpeg2KImageFile):
    """A JPEG 2000 image whose finest levels can be omitted.

    Pillow rounds the reduced size to the nearest integer, but its decoder rounds up. This class rounds up.
    """

    def leave_out(self, levels: int) -> None:
        """Omit the finest `levels` of the wavelet when the image is decoded."""
        width, height = (-(-side // 2**levels) for side in self.size)
        self._size = width, height
        (tile,) = self.tile
        codec, _, *rest = cast("tuple[Any, ...]", tile.args)
        self.tile = [tile._replace(extents=(0, 0, width, height), args=(codec, levels, *rest))]


def _ends(wavelet: Wavelet) -> tuple[int, int]:
    """Return the least and the greatest value that a sample can have."""
    least = -(2 ** (wavelet.bits - 1)) if wavelet.signed else 0
    return least, least + 2**wavelet.bits - 1


def _decoded(
    codestream: bytes, levels: int, wavelet: Wavelet, size: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Decode a picture of `size` without its finest levels; also return where the decoder may have clipped."""
    bits = wavelet.bits
    if wavelet.reversible:
        bits += _HEADROOM
        codestream = with_headroom(codestream, _HEADROOM)
    image = _Part(BytesIO(codestream))
    image.leave_out(levels)
    values = np.asarray(image).astype(np.float32)
    # Pillow shifts the bits of a sample to the upper end of 16 bits, and makes the least value 0.
    values *= np.float32(2.0 ** (bits - (8 if image.mode == "L" else 16)))
    least, greatest = _ends(wavelet)
    values += np.float32(least + 2 ** (wavelet.bits - 1) - 2 ** (bits - 1))
    cut = (values <= least) | (values >= greatest) if bits == wavelet.bits else np.zeros(values.shape, np.bool_)
    values = _aligned(values, levels, wavelet.reversible, size)
    return _evened(values, levels, wavelet.reversible), cut


def _low_pass(samples: NDArray[np.float64], levels: int, reversible: bool) -> NDArray[np.float64]:
    """Return the low-pass output of the wavelet for a row of samples after `levels` levels; row ends are mirrored."""
    for _ in range(levels):
        even, odd = samples[::2].copy(), samples[1::2].copy()
        for for_odd, for_even in _LIFTING[reversible]:
            odd += for_odd * (even[: len(odd)] + np.append(even[1:], even[-1])[: len(odd)])
            around = np.pad(odd, 1, mode="edge")
            even += for_even * (around[: len(even)] + around[1 : len(even) + 1])
        samples = even / _GAIN[reversible]
    return samples


def _aligned(values: NDArray[np.float32], levels: int, reversible: bool, size: tuple[int, int]) -> NDArray[np.float32]:
    """Interpolate values at the centres of pixels that cover the picture from edge to edge.

    The output of the wavelet lies at every `2**levels`-th pixel, beginning with the first, except for a few values at
    the border, where the filters use the mirrored picture. To find all positions, the same filters are applied to the
    positions of the pixels.
    """
    for side in size:
        positions = _low_pass(np.arange(side, dtype=np.float64), levels, reversible)
        positions = np.pad(positions, _TAPS, mode="reflect", reflect_type="odd")
        outer = np.pad(values, ((_TAPS, _TAPS), (0, 0)), mode="reflect", reflect_type="odd")
        count = -(-side // 2**levels)
        wanted = (np.arange(count) + 0.5) * (side / count) - 0.5
        first = np.searchsorted(positions, wanted, side="right") - _TAPS // 2
        near = positions[first + np.arange(_TAPS)[:, None]]
        values = np.zeros((count, values.shape[1]), np.float32)
        for tap in range(_TAPS):
            # Lagrange interpolation through the nearest values.
            others = np.delete(near, tap, axis=0)
            weights = np.prod((wanted - others) / (near[tap] - others), axis=0)
            values += outer[first + tap] * weights[:, None].astype(np.float32)
        values = values.T
    return np.ascontiguousarray(values)


def _evened(values: NDArray[np.float32], levels: int, reversible: bool) -> NDArray[np.float32]:
    """Compensate how the low-pass filter of the wavelet amplifies or weakens fine detail.

    The inverse filter is 1 + a * d + b * d**2, where d is the second difference. It is exact for waves of 8 and 4
    values.
    """
    span = 2 ** (levels + 5)
    places = np.arange(-span, span + 1) / 2**levels
    differences = [2 * np.cos(2 * np.pi / length) - 2 for length in (8, 4)]
    responses = [_low_pass(np.cos(2 * np.pi / length * places), levels, reversible)[2**5] for length in (8, 4)]
    slopes = [(1 / response - 1) / d for response, d in zip(responses, differences, strict=True)]
    b = (slopes[1] - slopes[0]) / (differences[1] - differences[0])
    a = slopes[0] - b * differences[0]
    for _ in range(2):
        difference = _second_difference(values, "odd")
        values = values + np.float32(a) * difference + np.float32(b) * _second_difference(difference, "odd")
        values = values.T
    return np.ascontiguousarray(values)


def _detail(values: NDArray[np.float32], levels: int, size: tuple[int, int]) -> NDArray[np.float32]:
    """Return a bound of the filters' error for each value of a picture that is resized to `size`."""
    directions = []
    for side, result in ((values, size[0]), (values.T, size[1])):
        difference = np.abs(_second_difference(side, "even"))
        near = -(-len(side) // result)
        difference[:near] *= _AT_BORDER
        difference[-near:] *= _AT_BORDER
        directions.append(difference)
    return (directions[0] + directions[1].T) * np.float32((1 - 0.25**levels) / 12)


def _second_difference(values: NDArray[np.float32], beyond: Literal["odd", "even"]) -> NDArray[np.float32]:
    """Return the second difference from row to row; rows beyond the border are reflected as by `np.pad`."""
    outer = np.pad(values, ((1, 1), (0, 0)), mode="reflect", reflect_type=beyond)
    return outer[:-2] - 2 * values + outer[2:]


def _shown(
    stored: NDArray[np.float32], table: NDArray[np.uint8], least: int
) -> NDArray[np.uint8] | NDArray[np.float32]:
    if not _is_straight(table):
        return look_up(table, np.rint(stored).astype(np.int32), least)
    # Rounded to whole levels as `read_image` does: in pictures of a few levels, the rounding errors have the same sign.
    shown: NDArray[np.float32] = np.rint((stored - least) * _slope(table) + np.float32(table[0]))
    return shown


def _is_straight(table: NDArray[np.uint8]) -> bool:
    line = np.linspace(float(table[0]), float(table[-1]), len(table))
    return bool(np.abs(table - line).max() <= 1)


def _slope(table: NDArray[np.uint8]) -> np.float32:
    return np.float32((float(table[-1]) - float(table[0])) / (len(table) - 1))


def _doubts(
    stored: NDArray[np.float32],
    detail: NDArray[np.float32],
    cut: NDArray[np.bool_],
    table: NDArray[np.uint8],
    wavelet: Wavelet,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return bounds of each pixel's error in grey levels: from the display, and from the filters."""
    if _is_straight(table) and wavelet.reversible:
        return np.zeros_like(stored), detail * np.abs(_slope(table))
    least, _ = _ends(wavelet)
    whole = np.rint(stored).astype(np.int32)
    low, high = _around(whole, np.minimum), _around(whole, np.maximum)
    dark, bright = (look_up(table, end, least).astype(np.float32) for end in (low, high))
    # The display of a mean differs from the mean of the displayed values by at most the display's deviation from a line
    # between the least and the greatest value nearby.
    bend = np.zeros(stored.shape, np.float32)
    for quarter in (1, 2, 3):
        shown = look_up(table, low + (high - low) * quarter // 4, least)
        np.maximum(bend, np.abs(shown - (dark + (bright - dark) * np.float32(quarter / 4))), out=bend)
    # One level is rounding.
    bend = np.maximum(bend - 1, 0)
    # The filters of the irreversible wavelet overshoot at edges, and the decoder clips to the range of a sample.
    bend += np.abs(bright - dark) / 4 * cut
    below, above = (
        look_up(table, np.rint(end).astype(np.int32), least).astype(np.float32)
        for end in (stored - detail, stored + detail)
    )
    return bend, np.abs(above - below) / 2


def _around(stored: NDArray[np.int32], extreme: np.ufunc) -> NDArray[np.int32]:
    """Return the minimum or maximum of each pixel and its eight neighbours."""
    found = stored.copy()
    extreme(found[1:], stored[:-1], out=found[1:])
    extreme(found[:-1], stored[1:], out=found[:-1])
    rows = found.copy()
    extreme(found[:, 1:], rows[:, :-1], out=found[:, 1:])
    extreme(found[:, :-1], rows[:, 1:], out=found[:, :-1])
    return found
