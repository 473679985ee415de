"""A picture with no more pixels than its reader needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lrclr.images._resize import resized_size

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lrclr.images._resize import ResizeSpec

__all__ = ["ReducedImage", "Wanted"]

# The low-pass filters of a wavelet keep so much of fine detail that two pixels must be left to each of the result.
_PIXELS_LEFT = 2


@dataclass(frozen=True)
class ReducedImage:
    """A picture that may be smaller than the one in the file.

    Attributes:
        pixels: uint8 ``[h, w]`` or ``[h, w, 3]``; or float32 ``[h, w]`` on the same scale, which may go below 0 and
            above 255 where a low-pass filter overshoots.
        height, width: of the full picture, in pixels: what regions' boxes refer to.
        remarks: what was ignored in the file, and where it is not as it should be: fixed sentences that hold names of
            attributes, and no values.
    """

    pixels: NDArray[np.uint8] | NDArray[np.float32]
    height: int
    width: int
    remarks: tuple[str, ...] = ()

    @classmethod
    def whole(cls, pixels: NDArray[np.uint8], remarks: tuple[str, ...] = ()) -> ReducedImage:
        """A picture in full."""
        height, width = pixels.shape[:2]
        return cls(pixels, height, width, remarks)


@dataclass(frozen=True)
class Wanted:
    """How small a picture may become: as small as a recipe of preprocessing allows."""

    spec: ResizeSpec

    def surplus(self, height: int, width: int) -> float:
        """How many pixels of the picture, along an edge, make one of what preprocessing resizes it to.

        Raises:
            ImageError, ImageLimitError: the picture is too narrow for the recipe.
        """
        rows, columns = resized_size(self.spec, height, width)
        return min(height / rows, width / columns)

    def levels(self, height: int, width: int) -> int:
        """How many levels of a wavelet, each of which halves the edges, may be left out."""
        return max(0, int(np.log2(max(1.0, self.surplus(height, width) / _PIXELS_LEFT))))
