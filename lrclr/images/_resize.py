"""The size that preprocessing resizes a picture to. It determines how many pixels must be read."""

from __future__ import annotations

from typing import Final, Protocol

from lrclr.errors import ImageError, ImageLimitError

# A picture of one pixel by thousands would be resized to gigabytes before it is cropped.
MAX_RESIZED_PIXELS: Final = 2**25


class ResizeSpec(Protocol):
    """The part of `lrclr.preprocessing.PreprocessSpec` that reading an image needs."""

    @property
    def image_size(self) -> int:
        """Side of the network's input, in pixels."""

    @property
    def resize(self) -> int | None:
        """Shortest edge after the resize; None for `image_size`."""

    @property
    def canvas(self) -> int | None:
        """Longest edge after the resize; None if the shortest edge decides."""

    @property
    def squash(self) -> bool:
        """Whether both edges get `image_size` pixels, whatever the shape of the image is."""


def resized_size(spec: ResizeSpec, height: int, width: int) -> tuple[int, int]:
    """Return the rows and columns of an image after the resize.

    They are rounded exactly as in the original implementations, including their floating-point errors.

    Args:
        spec: preprocessing of the model.
        height, width: size of the image in pixels.

    Raises:
        ImageError: the image has no pixels, or is too narrow.
        ImageLimitError: the image is so long and narrow that resizing it would take gigabytes.
    """
    if min(height, width) < 1:
        raise ImageError(f"an image of {height} x {width} has no pixels")
    if spec.squash:
        return spec.image_size, spec.image_size
    if spec.canvas is not None:
        ratio = float(spec.canvas) / max(height, width)
        rows, columns = int(height * ratio), int(width * ratio)
        if min(rows, columns) < 1:
            raise ImageError(
                f"an image of {height} x {width} is too narrow",
                why=f"it vanishes when its longest edge is {spec.canvas} pixels",
            )
        return rows, columns
    short = spec.resize or spec.image_size
    long = int(short * max(height, width) / min(height, width))
    if short * long > MAX_RESIZED_PIXELS:
        raise ImageLimitError(
            f"an image of {height} x {width} is too narrow",
            why=f"it has {short * long} pixels when its shortest edge has {short}, more than {MAX_RESIZED_PIXELS}",
        )
    return (long, short) if width <= height else (short, long)
