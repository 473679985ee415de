"""The grey-scale pipeline of DICOM (PS3.3 C.11): from stored values to display values.

pydicom has functions for these steps, but they are wrong or fail on files that exist in practice: an 8-bit VOI LUT of
more than 256 entries wraps around, a LUT that starts below zero overflows on unsigned pixels, and a window after a
negative slope is inverted. In all other cases, tests check that both give the same result. Each step maps a value
independently of its neighbours, so it is computed once for each grey level and not for each pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from lrclr.errors import ImageError
from lrclr.images._arrays import look_up

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ROWS = 64
_BLOCK = 2**18
_MAX_LEVELS = 2**20


@dataclass(frozen=True)
class Lut:
    """A lookup table: `entries[0]` is for values up to `first`; entries from `white` up are shown as white."""

    first: int
    entries: NDArray[np.uint16]
    white: int

    def __call__(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Look up rounded `values`; a value outside the table takes its first or last entry."""
        index = np.clip(np.rint(values) - self.first, 0, len(self.entries) - 1)
        entries: NDArray[np.float64] = self.entries[index.astype(np.intp)].astype(np.float64)
        return entries

    def shares(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Look up `values` as fractions of white, from 0 to 1."""
        shares: NDArray[np.float64] = np.minimum(self(values) / self.white, 1.0)
        return shares


@dataclass(frozen=True)
class Rescale:
    """Modality rescale: `slope * value + intercept`."""

    slope: float
    intercept: float

    def __call__(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Rescale `values`; a result that is too large becomes infinite."""
        with np.errstate(over="ignore"):
            return values * self.slope + self.intercept


@dataclass(frozen=True)
class Window:
    """A VOI window (PS3.3 C.11.2.1.2, C.11.2.1.3): LINEAR, LINEAR_EXACT or SIGMOID, of a width above 0."""

    center: float
    width: float
    function: str = "LINEAR"

    def shares(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return where `values` lie in the window: 0 below it, 1 above it."""
        if self.function == "SIGMOID":
            exponent = np.clip(-4 * (values - self.center) / self.width, -700, 700)
            return 1 / (1 + np.exp(exponent))
        center, width = self.center, self.width
        # The standard requires a LINEAR width of at least 1. Smaller widths occur with rescaled units; such a window
        # is applied as LINEAR_EXACT.
        if self.function == "LINEAR" and width >= 1:
            center, width = center - 0.5, width - 1
        if width == 0:
            return (values > center).astype(np.float64)
        return np.clip((values - center) / width + 0.5, 0.0, 1.0)


@dataclass(frozen=True)
class Display:
    """How stored values are displayed.

    Args:
        modality: transformation from stored values to the input of `voi`.
        voi: window or table of the values to display; None for the range of the values in the picture.
        padding: least and greatest stored value of padding, which becomes black.
        inverted: whether the least value is white.
    """

    modality: Rescale | Lut | None = None
    voi: Window | Lut | None = None
    padding: tuple[float, float] | None = None
    inverted: bool = False


def to_grey(stored: NDArray[np.generic], display: Display) -> NDArray[np.uint8]:
    """Convert `stored`, `[H, W]` of integers or finite floats, to display values, `[H, W]` uint8."""
    low, high = stored.min(), stored.max()
    if stored.dtype.kind == "f" or int(high) - int(low) >= _MAX_LEVELS:
        return _to_grey_by_rows(stored, display)
    whole = cast("NDArray[np.integer]", stored)
    first, count = int(low), int(high) - int(low) + 1
    levels = np.arange(first, first + count, dtype=np.float64)
    present = np.zeros(count, dtype=np.bool_)
    if display.voi is None:
        if display.padding is None and not isinstance(display.modality, Lut):
            # A rescale keeps or reverses the order, so the extremes stay the extremes.
            present[[0, -1]] = True
        else:
            for start in range(0, len(stored), _ROWS):
                present[whole[start : start + _ROWS].astype(np.intp) - first] = True
    return look_up(shades_of(levels, present, display), whole, first)


def _to_grey_by_rows(stored: NDArray[np.generic], display: Display) -> NDArray[np.uint8]:
    """As `to_grey`, for each pixel, and a few rows at a time: the intermediate arrays take 40 bytes a pixel."""
    rows = max(1, _BLOCK // stored.shape[1])
    parts = [slice(start, start + rows) for start in range(0, len(stored), rows)]
    span = None
    if display.voi is None:
        ends = [_span(*_modality_values(stored[part].astype(np.float64), display)) for part in parts]
        span = min(low for low, _ in ends), max(high for _, high in ends)
    grey = np.empty(stored.shape, np.uint8)
    for part in parts:
        values = stored[part].astype(np.float64)
        grey[part] = shades_of(values, np.ones(values.shape, dtype=np.bool_), display, span)
    return grey


def shades_of(
    values: NDArray[np.float64], present: NDArray[np.bool_], display: Display, span: tuple[float, float] | None = None
) -> NDArray[np.uint8]:
    """Convert `values` to grey levels.

    Without a VOI, `span` is the range to display; its default is the range of the `present` values without padding.
    """
    shown, picture = _modality_values(values, display)
    padded = ~picture
    if not np.isfinite(shown).all():
        raise ImageError("the rescaled values of the DICOM file are too large to display")
    if display.voi is None:
        shares = _stretch(shown, span or _span(shown, present & picture))
    else:
        shares = display.voi.shares(shown)
    shades = np.rint(shares * 255).astype(np.uint8)
    if display.inverted:
        shades = np.uint8(255) - shades
    shades[padded] = 0
    return shades


def _modality_values(values: NDArray[np.float64], display: Display) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return stored values after the modality step, and a mask of the values that are not padding."""
    picture = np.ones(values.shape, dtype=np.bool_)
    if display.padding is not None:
        picture = (values < display.padding[0]) | (values > display.padding[1])
    return values if display.modality is None else display.modality(values), picture


def _span(values: NDArray[np.float64], counted: NDArray[np.bool_]) -> tuple[float, float]:
    return (
        float(values.min(where=counted, initial=np.inf)),
        float(values.max(where=counted, initial=-np.inf)),
    )


def _stretch(values: NDArray[np.float64], span: tuple[float, float]) -> NDArray[np.float64]:
    low, high = span
    if not low < high:
        return np.zeros_like(values)
    # Halves, since the difference of two large floats can overflow.
    stretched: NDArray[np.float64] = np.clip((values / 2 - low / 2) / (high / 2 - low / 2), 0.0, 1.0)
    return stretched
