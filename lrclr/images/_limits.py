"""How large an encoded file and a decoded picture may be."""

from __future__ import annotations

from dataclasses import dataclass

from lrclr.errors import ImageError, ImageLimitError, UsageError

__all__ = ["ReadLimits"]


@dataclass(frozen=True)
class ReadLimits:
    """What `read_image` refuses before it decodes anything.

    Args:
        max_bytes: the longest encoded source, in bytes. It also bounds the data set that a deflated DICOM file
            inflates to.
        max_pixels: the largest picture, as height times width. The largest detectors give about 20 million pixels.
            Decoding takes 3 to 35 bytes a pixel, by the format; `lrclr.budget` bounds what a process uses for it.

    Raises:
        UsageError: a limit is not a positive whole number.
    """

    max_bytes: int = 512 * 2**20
    max_pixels: int = 100_000_000

    def __post_init__(self) -> None:
        for name, value in (("max_bytes", self.max_bytes), ("max_pixels", self.max_pixels)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UsageError(f"{name} is {value!r}", why="a limit is a positive whole number")

    def check_bytes(self, size: int, what: str = "the image") -> None:
        """Refuse `size` bytes of `what` if they are too many.

        Raises:
            ImageLimitError: `size` is above `max_bytes`.
        """
        if size > self.max_bytes:
            raise ImageLimitError(
                f"{what} is longer than {self.max_bytes} bytes",
                fix="Raise ReadLimits.max_bytes if the source can be trusted",
            )

    def check_pixels(self, height: int, width: int) -> None:
        """Refuse a picture of `height` by `width` pixels if it is empty or too large.

        Raises:
            ImageError: the picture is empty.
            ImageLimitError: it has more than `max_pixels` pixels.
        """
        if height < 1 or width < 1:
            raise ImageError(f"the image is empty: it is {height} pixels high and {width} wide")
        if height * width > self.max_pixels:
            raise ImageLimitError(
                f"the image is {height} pixels high and {width} wide",
                why=f"that is more than the limit of {self.max_pixels} pixels",
                fix="Raise ReadLimits.max_pixels if the source can be trusted",
            )
