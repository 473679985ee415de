"""How many bytes it takes to read a picture: from its header, before anything is decoded.

Each figure is the most that the process holds for one picture beside the file itself, from the decoder's first row
until `lrclr.preprocessing.preprocess` has its values. ``tests/images/test_images_memory.py`` measures them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

if TYPE_CHECKING:
    from PIL import Image

    from lrclr.images._dicom_frame import FrameLayout

__all__ = ["STRIP", "dicom_bytes", "inflated_bytes", "raster_bytes"]

STRIP: Final = 2**18
"""Pixels that are converted at once."""

# Pillow's storage. What is not named takes four bytes a pixel, RGB too.
_STORED: Final = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16L": 2, "I;16B": 2, "I;16N": 2}
_COLOUR: Final = frozenset({"P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})
_ORIENTATION, _ROWS_PER_STRIP, _TILE_WIDTH, _TILE_LENGTH = 274, 278, 322, 323
_END_OF_SCAN_HEADER: Final = b"\xff\xda"
# The decoder's tables and rows, and a strip in the widest type that it goes through.
_TABLES, _STRIP_PIXEL = 8 * 2**20, 48


def raster_bytes(image: Image.Image, data: bytes = b"") -> int:
    """Bytes for a Pillow image, or for a file that Pillow opened and did not load.

    Args:
        image: as Pillow opened it.
        data: the file.
    """
    width, height = image.size
    stored = _STORED.get(image.mode, 4)
    most = max(stored * _copies(image), *_after_decoding(stored, image.mode in _COLOUR))
    constant = _TABLES + min(width * height, STRIP) * _STRIP_PIXEL
    return width * height * most + _beside(image, data) + constant


def inflated_bytes(image: Image.Image, data: bytes) -> int:
    """Bytes for a PNG file whose pixels are inflated before Pillow gets them: for a while three copies of them."""
    depth = 2 if data[24:25] == b"\x10" else 1
    inflated = image.height * (1 + image.width * len(image.getbands()) * depth)
    return inflated + max(2 * inflated, raster_bytes(image))


def _copies(image: Image.Image) -> int:
    """How often the decoder has the picture in Pillow's storage."""
    if isinstance(image, PngImageFile) and image.is_animated:
        # The frame, the one before it, the part that is drawn, and that part with its opacity.
        return 5
    return 2 if isinstance(image, TiffImageFile) and image.tag_v2.get(_ORIENTATION, 1) != 1 else 1


def _after_decoding(stored: int, colour: bool) -> tuple[int, int]:
    """Bytes a pixel while it is brought to 8 bits, and while it is resized: RGB is four bytes in Pillow."""
    return (stored + 3, 8) if colour else (stored + 1, 3)


def _beside(image: Image.Image, data: bytes) -> int:
    """What a decoder holds of the whole picture beside the pixels that it gives."""
    bands = len(image.getbands())
    if isinstance(image, JpegImageFile) and data.count(_END_OF_SCAN_HEADER) > 1:
        # Coefficients of 16 bits: they are complete with the last of several scans. Sides are filled up to blocks.
        return 2 * bands * (image.width + 32) * (image.height + 32)
    if not isinstance(image, TiffImageFile):
        return 0
    # The file without its optional tags is a copy.
    copy = len(data)
    if image.tile and image.tile[0].codec_name == "libtiff":
        tags = image.tag_v2
        if _TILE_WIDTH in tags:
            segment = int(tags[_TILE_WIDTH]) * int(tags.get(_TILE_LENGTH, 1))
        else:
            segment = image.width * min(image.height, int(tags.get(_ROWS_PER_STRIP, image.height)))
        # Deflated and inflated; libtiff brings some kinds of colour to RGBA itself.
        return copy + len(data) + segment * (4 + max(2 * bands, 4))
    return copy


def dicom_bytes(layout: FrameLayout, encoded: int) -> int:
    """Bytes for a frame of a DICOM file that was parsed.

    Args:
        layout: of the file.
        encoded: length of its pixel data if they are compressed, else 0.
    """
    sample = max(1, layout.bits_allocated // 8)
    if layout.samples == 1 and layout.photometric != "PALETTE COLOR":
        # What decodes lossless JPEG holds the frame five times, and JPEG 2000 is judged by a dozen arrays of a quarter
        # of its pixels.
        most = max(5 * sample + 2, 16) if encoded else 2 * sample + 3
    elif layout.photometric in ("YBR_FULL", "YBR_FULL_422"):
        # pydicom brings them to RGB in floating point.
        most = 34 * sample
    else:
        most = max(15 * sample + 4, 18)
    return layout.rows * layout.columns * most + 3 * encoded + _TABLES + STRIP * _STRIP_PIXEL
