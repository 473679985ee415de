"""The picture that a model reads, for a screen."""

from __future__ import annotations

import io
from typing import Final

from PIL import Image

from lrclr.budget import reading
from lrclr.images import read_image

# Larger pictures bring nothing on a screen, and take long to compress.
_LONGEST: Final = 2048


@reading()
def picture(file: bytes, frame: int | None) -> bytes:
    """Read an image file as the model does, and write it as a PNG file with at most 2048 pixels on its longer side.

    Raises:
        ImageError, MissingExtraError: as `lrclr.read_image`.
    """
    image = Image.fromarray(read_image(file, frame=frame))
    image.thumbnail((_LONGEST, _LONGEST), Image.Resampling.LANCZOS, reducing_gap=3.0)
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=1)
    return stream.getvalue()
