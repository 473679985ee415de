"""Loads JPEG files, and refuses those whose compressed data do not fill the picture exactly.

Where data are missing, libjpeg continues with grey; after damaged data it continues at a wrong place. It only counts
warnings, which Pillow ignores. So this module passes the compressed data to Pillow in two pieces, of which Pillow must
need both and no third one. A few changed bytes that leave the number of blocks as it was are not found.
"""

from __future__ import annotations

from io import BytesIO
from typing import Final

from PIL.JpegImagePlugin import JpegImageFile

from lrclr.errors import ImageError
from lrclr.images._codestream import compressed_data, segments_of

_DAMAGED: Final = "the JPEG picture is damaged"
_FIX: Final = "Export the image again."
_SCAN, _END = 0xDA, 0xD9
# Tables or another scan may follow a scan, or the number of lines.
_OTHER_SCANS: Final = frozenset({0xC4, 0xDA, 0xDB, 0xDC, 0xDD, 0xFE})
# Some devices write a few bytes too many.
_TOLERATED: Final = 16
# The decoder reads 8 bytes ahead. No code consists of ones only, so these bytes complete at most two blocks.
_AHEAD: Final = 8 * b"\xff\x00"


def load_jpeg(image: JpegImageFile, data: bytes) -> None:
    """Load an image. It is checked if it is sequential with a single scan, as nearly all are.

    Args:
        image: image that Pillow opened.
        data: content of its file.

    Raises:
        ImageError: the compressed data end before the picture, or continue after it.
    """
    start = next((segment.end for segment in segments_of(data) if segment.marker == _SCAN), len(data))
    end, marker = compressed_data(data, start)
    if marker is None or marker in _OTHER_SCANS or "progressive" in image.info:
        image.load()
        return
    if marker != _END:
        raise ImageError(_DAMAGED, why="there is a marker within its compressed data", fix=_FIX)
    tail = data[end - _TOLERATED : end]
    pieces = [data[: end - _TOLERATED], tail + _AHEAD]

    def next_piece(_size: int) -> bytes:
        if not pieces:
            raise ImageError(_DAMAGED, why="its compressed data end before its last row", fix=_FIX)
        return pieces.pop(0)

    image.load_read = next_piece  # type: ignore[method-assign, assignment]
    image.load()
    if pieces and len(set(tail)) > 1:
        raise ImageError(_DAMAGED, why="its compressed data continue after its last row", fix=_FIX)


def check_jpeg(data: bytes) -> None:
    """Raise ImageError if `load_jpeg` would refuse a picture of 8 bits. Others are not checked."""
    load_jpeg(JpegImageFile(BytesIO(data)), data)
