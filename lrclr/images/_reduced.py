"""A picture that may have fewer pixels than its file, and the size that a caller needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lrclr.images._resize import resized_size

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lrclr.images._resize import ResizeSpec

# Pixels to keep along an edge for each pixel after the resize: the low-pass filters of a wavelet keep some fine detail.
_PIXELS_LEFT = 2


@dataclass(frozen=True)
class ReducedImage:
    """A picture that may be smaller than the one in the file.

    Attributes:
        pixels: uint8 ``[h, w]`` or ``[h, w, 3]``; or float32 ``[h, w]`` on the same scale, which may go below 0 and
            above 255 where a low-pass filter overshoots.
        height, width: size of the full picture in pixels. The boxes of regions refer to it.
        remarks: fixed sentences about what was ignored in the file and what is not valid. They name attributes and
            never quote values.
        warnings: codes of `lrclr.input_checks`, by the file's attributes and, from `read_for_model`, by its pixels.
    """

    pixels: NDArray[np.uint8] | NDArray[np.float32]
    height: int
    width: int
    remarks: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @classmethod
    def whole(
        cls, pixels: NDArray[np.uint8], remarks: tuple[str, ...] = (), warnings: tuple[str, ...] = ()
    ) -> ReducedImage:
        """Wrap a picture of full size."""
        height, width = pixels.shape[:2]
        return cls(pixels, height, width, remarks, warnings)


@dataclass(frozen=True)
class Wanted:
    """The size that a caller needs: the one that the preprocessing `spec` resizes to."""

    spec: ResizeSpec

    def surplus(self, height: int, width: int) -> float:
        """Return the pixels of the picture for each pixel after the resize, along an edge.

        Raises:
            ImageError, ImageLimitError: the picture is too narrow for the preprocessing.
        """
        rows, columns = resized_size(self.spec, height, width)
        return min(height / rows, width / columns)

    def levels(self, height: int, width: int) -> int:
        """Return how many levels of a wavelet may be omitted. Each level halves the edges."""
        return max(0, int(np.log2(max(1.0, self.surplus(height, width) / _PIXELS_LEFT))))
