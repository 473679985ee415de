"""A picture with no more pixels than its reader needs, and where the full picture lies in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lrclr._preprocess_spec import resized_size

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

    from lrclr._preprocess_spec import PreprocessSpec

__all__ = ["Box", "ReducedImage", "Wanted", "shrunk"]

Box = tuple[float, float, float, float]

# A mean over boxes damps fine detail that the filter of the resize still lets through. With so many pixels left to each
# that comes of them, a grating of full contrast is off by at most 4 of 255; with two it would be off by 11. Lanczos, of
# the recipe "chexzero", lets more of a burnt-in letter's edges through than bicubic does.
_PIXELS_LEFT = {"clip": 4.5, "chexzero": 5.0}
# The low-pass filters of a wavelet keep more of it.
_WAVELET_PIXELS_LEFT = 2


@dataclass(frozen=True)
class ReducedImage:
    """A picture that may be smaller than the one in the file.

    Attributes:
        pixels: uint8 ``[h, w]`` or ``[h, w, 3]``; or float32 ``[h, w]`` on the same scale, which may go below 0 and
            above 255 where a low-pass filter overshoots.
        height, width: of the full picture, in pixels: what regions' boxes refer to.
        box: left, top, right and bottom of the full picture in `pixels`, in their coordinates. It need not end between
            two pixels.
        remarks: what was ignored in the file, and where it is not as it should be: fixed sentences that hold names of
            attributes, and no values.
    """

    pixels: NDArray[np.uint8] | NDArray[np.float32]
    height: int
    width: int
    box: Box
    remarks: tuple[str, ...] = ()

    @classmethod
    def whole(cls, pixels: NDArray[np.uint8], remarks: tuple[str, ...] = ()) -> ReducedImage:
        """A picture in full."""
        height, width = pixels.shape[:2]
        return cls(pixels, height, width, (0.0, 0.0, float(width), float(height)), remarks)


@dataclass(frozen=True)
class Wanted:
    """How small a picture may become: as small as a recipe of preprocessing allows."""

    spec: PreprocessSpec

    def surplus(self, height: int, width: int) -> float:
        """How many pixels of the picture, along an edge, make one of what preprocessing resizes it to.

        Raises:
            ImageError, ImageLimitError: the picture is too narrow for the recipe.
        """
        rows, columns = resized_size(self.spec, height, width)
        return min(height / rows, width / columns)

    def factor(self, height: int, width: int) -> int:
        """How many pixels along an edge may be averaged to one."""
        return max(1, int(self.surplus(height, width) / _PIXELS_LEFT[self.spec.kind]))

    def levels(self, height: int, width: int) -> int:
        """How many levels of a wavelet, each of which halves the edges, may be left out."""
        return max(0, int(np.log2(max(1.0, self.surplus(height, width) / _WAVELET_PIXELS_LEFT))))


def shrunk(picture: Image.Image, factor: int, height: int, width: int) -> ReducedImage:
    """Average `factor` by `factor` pixels of a picture of mode L or RGB that is `height` by `width` pixels in full."""
    box = (0.0, 0.0, picture.width / factor, picture.height / factor)
    if factor == 2:
        return ReducedImage(_halved(np.asarray(picture)), height, width, box)
    return ReducedImage(np.asarray(picture.reduce(factor) if factor > 1 else picture), height, width, box)


def _halved(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Average 2 by 2 pixels, and round halves up and down by turns.

    Always up, as Pillow does, makes a picture brighter by an eighth of a level, which moved a probability by 0.0025.
    """
    if any(side % 2 for side in pixels.shape[:2]):
        odd = [(0, side % 2) for side in pixels.shape[:2]]
        pixels = np.pad(pixels, [*odd, *[(0, 0)] * (pixels.ndim - 2)], mode="edge")
    rows = np.add(pixels[0::2], pixels[1::2], dtype=np.uint16)
    sums = rows[:, 0::2] + rows[:, 1::2]
    sums += 1
    sums[0::2, 0::2] += 1
    sums[1::2, 1::2] += 1
    sums >>= 2
    return sums.astype(np.uint8)
