"""Converts arrays of every supported depth and shape to 8-bit pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lrclr.errors import ImageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lrclr.images._limits import ReadLimits

# NumPy needs an index of eight bytes for each pixel. The indices of a block of this many pixels fit in the cache.
_BLOCK = 2**17
_ACCEPTED = "Pass bool, uint8, uint16 over its full range, or floats from 0 to 1"


def picture_from_array(array: NDArray[np.generic], limits: ReadLimits) -> NDArray[np.uint8]:
    """Convert `array`, `[H, W]` or `[H, W, 1|3|4]`, to a new picture: `[H, W]` or `[H, W, 3]` uint8.

    Raises:
        ImageError: the shape, the type or the values are not valid for an image.
        ImageLimitError: the picture is larger than `limits`.
    """
    array = np.asarray(array)
    _check_shape(array.shape)
    limits.check_pixels(array.shape[0], array.shape[1])
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    pixels = eight_bit(array)
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        pixels = flatten_alpha(pixels)
    return np.array(pixels, dtype=np.uint8, order="C", copy=True)


def eight_bit(array: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Return `array`, of any shape, with its values scaled to 0..255.

    Raises:
        ImageError: the type is not supported, or a float is NaN or outside [0, 1].
    """
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind == "b":
        return array.astype(np.uint8) * np.uint8(255)
    if kind == "u" and size == 1:
        return array.astype(np.uint8, copy=False)
    if kind == "u" and size == 2:
        return scale_levels(array.astype(np.uint16, copy=False), 65535)
    if kind == "f":
        return unit_to_eight_bit(array)
    raise ImageError(f"an array of type {array.dtype} is not accepted as an image", fix=_ACCEPTED)


def scale_levels(array: NDArray[np.integer], white: int) -> NDArray[np.uint8]:
    """Scale integers from 0 to `white` (at most 65535) to 0..255, rounded to the nearest; greater ones become 255."""
    levels = np.arange(white + 1, dtype=np.int64)
    table = ((levels * 255 * 2 + white) // (2 * white)).astype(np.uint8)
    return look_up(table, array)


def look_up(table: NDArray[np.uint8], array: NDArray[np.integer], first: int = 0) -> NDArray[np.uint8]:
    """Return `table[array - first]`; a value outside the table takes its first or last entry."""
    values = np.ascontiguousarray(array).reshape(-1)
    found = np.empty(values.shape, np.uint8)
    for start in range(0, values.size, _BLOCK):
        index = values[start : start + _BLOCK].astype(np.intp)
        index -= first
        np.take(table, index, out=found[start : start + _BLOCK], mode="clip")
    return found.reshape(array.shape)


def unit_to_eight_bit(array: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Scale floats from 0 to 1 to 0..255, rounded to the nearest.

    Raises:
        ImageError: a value is NaN, infinite, or outside [0, 1].
    """
    values = array.astype(np.float64, copy=False)
    with np.errstate(invalid="ignore"):
        low, high = float(values.min()), float(values.max())
    if np.isnan(low) or np.isnan(high):
        raise ImageError("the image holds values that are not a number (NaN)")
    if low < 0 or high > 1:
        raise ImageError(
            "the image holds floats outside 0 to 1",
            why="the values of black and white are not known",
            fix=_ACCEPTED,
        )
    return np.rint(values * 255).astype(np.uint8)


def flatten_alpha(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Blend a picture with black: `[H, W, C + 1]`, whose last channel is opacity, becomes `[H, W, C]`."""
    colour, alpha = pixels[:, :, :-1].astype(np.uint16), pixels[:, :, -1:].astype(np.uint16)
    return ((colour * alpha + np.uint16(127)) // np.uint16(255)).astype(np.uint8)


def _check_shape(shape: tuple[int, ...]) -> None:
    if len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3, 4)):
        return
    hint = "Pass [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]"
    if len(shape) == 3 and shape[0] in (1, 3, 4):
        hint = f"Put the channels last: array.transpose(1, 2, 0) has the shape {(shape[1], shape[2], shape[0])}"
    elif len(shape) == 4:
        hint = "Pass one image at a time"
    raise ImageError(f"an array of shape {shape} is not an image", fix=hint)
