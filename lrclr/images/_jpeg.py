"""Loads JPEG files, and refuses those whose compressed data do not fill the picture exactly.

Where data are missing, libjpeg continues with grey; after damaged data it continues at a wrong place. It only counts
warnings, which Pillow ignores. So this module passes the compressed data to Pillow in two pieces, of which Pillow must
need both and no third one. Not found are a few changed bytes that leave the number of blocks as it was, and damage
between two restart markers.
"""

from __future__ import annotations

import math
from io import BytesIO
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL.JpegImagePlugin import JpegImageFile

from lrclr.errors import ImageError
from lrclr.images._codestream import compressed_data, is_padding, segments_of

if TYPE_CHECKING:
    from lrclr.images._codestream import CompressedData, Segment

_DAMAGED: Final = "the JPEG picture is damaged"
_FIX: Final = "Export the image again."
_RESTARTS, _SCAN, _END = 0xDD, 0xDA, 0xD9
# Frames of sequential Huffman coding.
_SEQUENTIAL: Final = (0xC0, 0xC1)
# Tables or another scan may follow a scan, or the number of lines.
_OTHER_SCANS: Final = frozenset({0xC4, 0xDA, 0xDB, 0xDC, 0xDD, 0xFE})
_TAIL: Final = 17
# The decoder reads 8 bytes ahead. No code consists of ones only, so these bytes complete at most two blocks.
_AHEAD: Final = 8 * b"\xff\x00"


def load_jpeg(image: JpegImageFile, data: bytes) -> None:
    """Load an image. It is checked if it is sequential with a single scan and Huffman coding, as most are.

    Args:
        image: image that Pillow opened.
        data: content of its file.

    Raises:
        ImageError: the compressed data end before the picture, or continue after it.
    """
    header = {segment.marker: segment for segment in segments_of(data)}
    found = compressed_data(data, header[_SCAN].end) if _SCAN in header else None
    if found is None or header.keys().isdisjoint(_SEQUENTIAL) or found.marker in _OTHER_SCANS:
        image.load()
        return
    if found.marker not in {None, _END}:
        raise ImageError(_DAMAGED, why="there is a marker within its compressed data", fix=_FIX)
    if _RESTARTS in header:
        _check_restarts(image, header, found)
    ahead = b"" if found.marker is None else _AHEAD
    pieces = [data[: found.end - _TAIL], data[found.end - _TAIL : found.end] + ahead]

    def next_piece(_size: int) -> bytes:
        if not pieces:
            raise ImageError(_DAMAGED, why="its compressed data end before its last row", fix=_FIX)
        return pieces.pop(0)

    image.load_read = next_piece  # type: ignore[method-assign, assignment]
    image.load()
    if pieces:
        # What is left has at least the bytes of the second piece.
        body = data[header[_SCAN].end : found.end]
        alike = len(body) - len(body.rstrip(body[-1:]))
        if not is_padding(body[-max(alike, _TAIL) :]):
            raise ImageError(_DAMAGED, why="its compressed data continue after its last row", fix=_FIX)


def loaded_jpeg(data: bytes) -> JpegImageFile:
    """Open and load a picture of 8 bits; it raises what `load_jpeg` raises."""
    image = JpegImageFile(BytesIO(data))
    load_jpeg(image, data)
    return image


def _check_restarts(image: JpegImageFile, header: dict[int, Segment], found: CompressedData) -> None:
    """Refuse a scan in which restart markers are missing, or stand too close together for what is between them."""
    interval = int.from_bytes(header[_RESTARTS].payload[:2], "big")
    if interval == 0:
        return
    across, down = (max(layer[place] for layer in image.layer) if image.layers > 1 else 1 for place in (1, 2))
    units = math.ceil(image.width / (8 * across)) * math.ceil(image.height / (8 * down))
    expected = math.ceil(units / interval) - 1
    places = np.concatenate([[header[_SCAN].end - 2], found.restarts])[: expected + 1]
    # Each block takes at least two bits; a marker takes two bytes.
    is_short = (np.diff(places) - 2 < interval // 4).any()
    # Some encoders write one more at the end.
    if not expected <= len(found.restarts) <= expected + 1 or is_short:
        raise ImageError(_DAMAGED, why="parts of its compressed data are missing", fix=_FIX)
