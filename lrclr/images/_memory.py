"""How many bytes it takes to read a picture: from its header, before anything is decoded.

Each figure is the most that the process holds for one picture beside the file itself, from the decoder's first row
until `lrclr.preprocess.preprocess` has its values. ``tests/images/test_images_memory.py`` measures them.
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
_UNCOMPRESSED: Final = frozenset(f"1.2.840.10008.1.2{end}" for end in ("", ".1", ".1.99", ".2"))
# The decoder's tables and rows, and a strip in the widest type that it goes through.
_TABLES, _STRIP_PIXEL = 8 * 2**20, 48


def raster_bytes(
    image: Image.Image, data: bytes = b"", *, full: tuple[int, int] | None = None, factor: int | None = None
) -> int:
    """Bytes for a Pillow image, or for a file that Pillow opened and did not load.

    Args:
        image: as Pillow opened it; a JPEG file as its draft mode left it.
        data: the file.
        full: width and height in the file, where the draft mode makes them smaller.
        factor: how many pixels along an edge are averaged to one; None for a picture that is read in full.
    """
    width, height = image.size
    stored = _STORED.get(image.mode, 4)
    most = max(stored * _copies(image), *_after_decoding(stored, image.mode in _COLOUR, factor))
    constant = _TABLES + min(width * height, STRIP) * _STRIP_PIXEL
    return width * height * most + _beside(image, data, full or image.size) + constant


def inflated_bytes(image: Image.Image, data: bytes, factor: int) -> int:
    """Bytes for a PNG file whose pixels are inflated before Pillow gets them: for a while three copies of them."""
    depth = 2 if data[24:25] == b"\x10" else 1
    inflated = image.height * (1 + image.width * len(image.getbands()) * depth)
    return inflated + max(2 * inflated, raster_bytes(image, factor=factor))


def _copies(image: Image.Image) -> int:
    """How often the decoder has the picture in Pillow's storage."""
    if isinstance(image, PngImageFile) and image.is_animated:
        # The frame, the one before it, the part that is drawn, and that part with its opacity.
        return 5
    return 2 if isinstance(image, TiffImageFile) and image.tag_v2.get(_ORIENTATION, 1) != 1 else 1


def _after_decoding(stored: int, colour: bool, factor: int | None) -> tuple[int, int]:
    """Bytes a pixel while it is brought to 8 bits, and while it is reduced and resized: RGB is four bytes in Pillow."""
    # By 2, or by nothing, a picture is reduced in an array of its own.
    copied = factor is not None and factor <= 2
    return (stored + 3, 14 if copied else 8) if colour else (stored + 1, 5 if copied else 3)


def _beside(image: Image.Image, data: bytes, full: tuple[int, int]) -> int:
    """What a decoder holds of the whole picture beside the pixels that it gives."""
    bands = len(image.getbands())
    if isinstance(image, JpegImageFile) and data.count(_END_OF_SCAN_HEADER) > 1:
        # Coefficients of 16 bits: they are complete with the last of several scans. Sides are filled up to blocks.
        return 2 * bands * (full[0] + 32) * (full[1] + 32)
    if isinstance(image, TiffImageFile) and image.tile and image.tile[0].codec_name == "libtiff":
        tags = image.tag_v2
        if _TILE_WIDTH in tags:
            segment = int(tags[_TILE_WIDTH]) * int(tags.get(_TILE_LENGTH, 1))
        else:
            segment = image.width * min(image.height, int(tags.get(_ROWS_PER_STRIP, image.height)))
        # Deflated and inflated; libtiff brings some kinds of colour to RGBA itself.
        return len(data) + segment * (4 + max(2 * bands, 4))
    return 0


def dicom_bytes(layout: FrameLayout, encoded: int) -> int:
    """Bytes for a frame of a DICOM file that was parsed.

    Args:
        layout: of the file.
        encoded: length of its pixel data.
    """
    sample = max(1, layout.bits_allocated // 8)
    encapsulated = layout.transfer_syntax not in _UNCOMPRESSED
    if layout.samples == 1 and layout.photometric != "PALETTE COLOR":
        # What decodes lossless JPEG holds the frame five times, and JPEG 2000 is judged by a dozen arrays of a quarter
        # of its pixels.
        most = max(5 * sample + 2, 16) if encapsulated else 2 * sample + 3
    elif layout.photometric in ("YBR_FULL", "YBR_FULL_422"):
        # pydicom brings them to RGB in floating point.
        most = 34 * sample
    else:
        most = max(15 * sample + 4, 18)
    copies = 3 * encoded if encapsulated else 0
    return layout.rows * layout.columns * most + copies + _TABLES + STRIP * _STRIP_PIXEL
