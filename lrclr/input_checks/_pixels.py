"""Checks of pixels. They look at a sample of at most 256 x 256 pixels and cost less than a millisecond."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image

from lrclr.input_checks._layout import layout_warning

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

_SAMPLE: Final = 256
_NOISE_ROWS: Final = 32
# Limits. docs/howto/input-checks.md says on which images they were chosen, and on which others they were measured.
_SHAPE_LIMIT: Final = 1.8
_CONTRAST_LIMIT: Final = 40
_CORRELATION_LIMIT: Final = 0.8
_COLOUR_LIMIT: Final = 3.0
_LEVEL_SHARE_LIMIT: Final = 0.35
# Levels below this one are the background of a radiograph.
_DARK: Final = 10
# A row or column whose levels differ by no more than this is a border.
_BORDER_RANGE: Final = 16


def pixel_warnings(pixels: NDArray[Any], height: int, width: int, model_side: int) -> tuple[str, ...]:
    """Codes of the warnings that the pixels of an image give.

    Uniform borders are left out before the shape, the contrast and the layout are judged.

    Args:
        pixels: ``[h, w]`` or ``[h, w, 3]``, levels from 0 to 255; possibly at a reduced resolution.
        height, width: size of the full image in pixels.
        model_side: edge of the model's input in pixels.
    """
    return tuple(_found(pixels, height, width, model_side))


def _found(pixels: NDArray[Any], height: int, width: int, model_side: int) -> Iterator[str]:
    step = -(-max(pixels.shape[:2]) // _SAMPLE)
    sample = _levels(pixels[::step, ::step])
    grey = sample if sample.ndim == 2 else np.asarray(Image.fromarray(sample).convert("L"))
    inner = _without_borders(grey)
    if 2 * min(height, width) < model_side:
        yield "tiny"
    # Bars of a letterbox make a picture longer. A shift makes what is left without the empty part shorter.
    if min(_ratio(height, width), _ratio(*inner.shape)) > _SHAPE_LIMIT:
        yield "extreme_shape"
    counts = np.bincount(inner.ravel(), minlength=256)
    is_flat = _contrast(counts) < _CONTRAST_LIMIT
    if is_flat:
        yield "flat"
    is_noise = not is_flat and _neighbour_correlation(pixels) < _CORRELATION_LIMIT
    if is_noise:
        yield "noise"
    if sample.ndim == 3 and _colourfulness(sample) > _COLOUR_LIMIT:
        yield "colour"
    # Compression blurs a level over its neighbours.
    levels = np.convolve(counts, np.ones(5), "same")[_DARK:]
    if not is_flat and levels.max() > _LEVEL_SHARE_LIMIT * inner.size:
        yield "one_level"
    layout = None if is_flat or is_noise else layout_warning(inner)
    if layout is not None:
        yield layout


def _ratio(height: int, width: int) -> float:
    return max(height, width) / min(height, width)


def _levels(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    if pixels.dtype == np.uint8:
        return np.ascontiguousarray(pixels)
    levels: NDArray[np.uint8] = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    return levels


def _without_borders(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture without uniform rows and columns at its edges; all of it if nothing would be left."""
    rows = np.flatnonzero(grey.max(1) - grey.min(1) > _BORDER_RANGE)
    columns = np.flatnonzero(grey.max(0) - grey.min(0) > _BORDER_RANGE)
    if len(rows) == 0 or len(columns) == 0:
        return grey
    return grey[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _contrast(counts: NDArray[np.int64]) -> int:
    """Levels between the first and the last percentile."""
    shares = np.cumsum(counts) / counts.sum()
    low, high = np.searchsorted(shares, (0.01, 0.99))
    return int(high - low)


def _neighbour_correlation(pixels: NDArray[Any]) -> float:
    """Correlation of pixels with their right neighbours, in some rows at the resolution of the array."""
    places = np.linspace(0.1, 0.9, _NOISE_ROWS) * (len(pixels) - 1)
    rows = pixels[places.astype(int)].astype(np.float32)
    rows = rows if rows.ndim == 2 else rows.mean(axis=2)
    rows -= rows.mean()
    variance = float((rows * rows).mean())
    return float((rows[:, 1:] * rows[:, :-1]).mean()) / variance if variance > 0.0 and rows.shape[1] > 1 else 1.0


def _colourfulness(sample: NDArray[np.uint8]) -> float:
    """Mean difference between the largest and the smallest channel."""
    red, green, blue = sample[:, :, 0], sample[:, :, 1], sample[:, :, 2]
    high, low = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    return float((high - low).mean())
