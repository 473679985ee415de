"""Limits on the size of an encoded file and of a decoded picture."""

from __future__ import annotations

from dataclasses import dataclass

from lrclr.errors import ImageError, ImageLimitError, UsageError


@dataclass(frozen=True)
class ReadLimits:
    """Limits that `read_image` checks before it decodes anything.

    Args:
        max_bytes: greatest length of the encoded source in bytes. It also limits the inflated data set of a deflated
            DICOM file.
        max_pixels: greatest height times width of the picture. The largest detectors give about 20 million pixels.
            Decoding takes 3 to 35 bytes a pixel, depending on the format; `lrclr.budget` limits the sum in a process.

    Raises:
        UsageError: a limit is not a positive integer.
    """

    max_bytes: int = 512 * 2**20
    max_pixels: int = 100_000_000

    def __post_init__(self) -> None:
        for name, value in (("max_bytes", self.max_bytes), ("max_pixels", self.max_pixels)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UsageError(f"{name} is {value!r}", why="a limit is a positive integer")

    def check_bytes(self, size: int, what: str = "the image") -> None:
        """Raise an error if `size`, in bytes, is above the limit; `what` names the data in the error.

        Raises:
            ImageLimitError: `size` is above `max_bytes`.
        """
        if size > self.max_bytes:
            raise ImageLimitError(
                f"{what} is longer than {self.max_bytes} bytes",
                fix="Raise ReadLimits.max_bytes if the source can be trusted",
            )

    def check_pixels(self, height: int, width: int) -> None:
        """Raise an error if a picture of `height` by `width` pixels is empty or too large.

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
