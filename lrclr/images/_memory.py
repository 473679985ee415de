"""Computes from the header of a file how much memory reading it takes, before anything is decoded.

Each number is the peak memory for one picture in addition to the file itself, from the start of decoding until
`lrclr.preprocessing.preprocess` has its values. ``tests/images/test_images_memory.py`` measures these numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

if TYPE_CHECKING:
    from PIL import Image

    from lrclr.images._dicom_layout import FrameLayout

STRIP: Final = 2**18
"""Pixels that are converted at a time."""

# Bytes a pixel in Pillow's memory. Every other mode, including RGB, takes four.
_STORED: Final = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16L": 2, "I;16B": 2, "I;16N": 2}
_COLOUR: Final = frozenset({"P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})
_ORIENTATION, _ROWS_PER_STRIP, _TILE_WIDTH, _TILE_LENGTH = 274, 278, 322, 323
_END_OF_SCAN_HEADER: Final = b"\xff\xda"
# Memory of a decoder's tables and rows, and bytes a pixel of a strip in its widest intermediate type.
_TABLES, _STRIP_PIXEL = 8 * 2**20, 48


def raster_bytes(image: Image.Image, data: bytes = b"") -> int:
    """Return the bytes that a Pillow image takes, loaded or not.

    Args:
        image: image that Pillow opened.
        data: content of the file.
    """
    width, height = image.size
    stored = _STORED.get(image.mode, 4)
    most = max(stored * _copies(image), *_after_decoding(stored, image.mode in _COLOUR))
    constant = _TABLES + min(width * height, STRIP) * _STRIP_PIXEL
    return width * height * most + _beside(image, data) + constant


def inflated_bytes(image: Image.Image, data: bytes) -> int:
    """Return the bytes for a PNG file that is inflated before Pillow reads it: up to three copies of its pixels."""
    depth = 2 if data[24:25] == b"\x10" else 1
    inflated = image.height * (1 + image.width * len(image.getbands()) * depth)
    return inflated + max(2 * inflated, raster_bytes(image))


def _copies(image: Image.Image) -> int:
    """Return how many copies of the picture the decoder holds in Pillow's format."""
    if isinstance(image, PngImageFile) and image.is_animated:
        # The frame, the previous frame, the part that is drawn, and that part with its opacity.
        return 5
    return 2 if isinstance(image, TiffImageFile) and image.tag_v2.get(_ORIENTATION, 1) != 1 else 1


def _after_decoding(stored: int, colour: bool) -> tuple[int, int]:
    """Return the bytes a pixel during conversion to 8 bits, and during resizing. RGB takes four bytes in Pillow."""
    return (stored + 3, 8) if colour else (stored + 1, 3)


def _beside(image: Image.Image, data: bytes) -> int:
    """Return the bytes that a decoder holds for the whole picture in addition to the decoded pixels."""
    bands = len(image.getbands())
    if isinstance(image, JpegImageFile) and data.count(_END_OF_SCAN_HEADER) > 1:
        # A file with several scans needs all coefficients, of 16 bits, until the last scan. Sides are padded to blocks.
        return 2 * bands * (image.width + 32) * (image.height + 32)
    if not isinstance(image, TiffImageFile):
        return 0
    # Removing the optional tags makes a copy of the file.
    copy = len(data)
    if image.tile and image.tile[0].codec_name == "libtiff":
        tags = image.tag_v2
        if _TILE_WIDTH in tags:
            segment = int(tags[_TILE_WIDTH]) * int(tags.get(_TILE_LENGTH, 1))
        else:
            segment = image.width * min(image.height, int(tags.get(_ROWS_PER_STRIP, image.height)))
        # A compressed and a decompressed segment; libtiff itself converts some kinds of colour to RGBA.
        return copy + len(data) + segment * (4 + max(2 * bands, 4))
    return copy


def dicom_bytes(layout: FrameLayout, encoded: int) -> int:
    """Return the bytes that decoding a frame of a parsed DICOM file takes.

    Args:
        layout: layout of the file.
        encoded: length of the pixel data if they are compressed, else 0.
    """
    sample = max(1, layout.bits_allocated // 8)
    if layout.samples == 1 and layout.photometric != "PALETTE COLOR":
        # The decoder of lossless JPEG holds the frame five times. The check of reduced JPEG 2000 needs about twelve
        # arrays with a quarter of the pixels each.
        most = max(5 * sample + 2, 16) if encoded else 2 * sample + 3
    elif layout.photometric in ("YBR_FULL", "YBR_FULL_422"):
        # pydicom converts them to RGB in floating point.
        most = 34 * sample
    else:
        most = max(15 * sample + 4, 18)
    return layout.rows * layout.columns * most + 3 * encoded + _TABLES + STRIP * _STRIP_PIXEL
