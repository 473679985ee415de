"""PNG, JPEG and TIFF files as bytes, for the tests of several folders."""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image


def encode(image: Image.Image, file_format: str, **options: Any) -> bytes:
    """The bytes of the file that Pillow writes."""
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def png_chunk(name: bytes, content: bytes, check: int | None = None) -> bytes:
    """A chunk of a PNG file, with the right checksum or with the checksum `check`."""
    check = zlib.crc32(name + content) if check is None else check
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)
