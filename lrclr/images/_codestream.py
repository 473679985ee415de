"""What a compressed frame says of its own size, read from its header.

A decoder allocates what the codestream asks for, not what the DICOM tags promise: the two must agree before it is
called.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

__all__ = ["FrameSize", "jpeg2000_size", "jpeg_size"]

_SOC_SIZ = b"\xff\x4f\xff\x51"
_NO_LENGTH = {0x01, *range(0xD0, 0xD9)}
_NOT_A_FRAME = {0xC4, 0xC8, 0xCC}


class FrameSize(NamedTuple):
    """Height and width in pixels, and the number of components."""

    rows: int
    columns: int
    samples: int


def jpeg_size(data: bytes) -> FrameSize | None:
    """Read the frame header of a JPEG (any process) or JPEG-LS codestream; None if there is none."""
    position = 2
    if data[:2] != b"\xff\xd8":
        return None
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            return None
        marker = data[position + 1]
        if marker == 0xFF:
            position += 1
        elif marker in _NO_LENGTH:
            position += 2
        elif (0xC0 <= marker <= 0xCF and marker not in _NOT_A_FRAME) or marker == 0xF7:
            return _jpeg_frame_header(data[position + 5 : position + 10])
        else:
            position += 2 + struct.unpack_from(">H", data, position + 2)[0]
    return None


def _jpeg_frame_header(header: bytes) -> FrameSize | None:
    return FrameSize(*struct.unpack(">HHB", header)) if len(header) == 5 else None


def jpeg2000_size(data: bytes) -> FrameSize | None:
    """Read the SIZ segment of a JPEG 2000 or HTJ2K codestream, bare or in a JP2 file; None if there is none."""
    start = data.find(_SOC_SIZ, 0, 65536)
    if start < 0 or start + 42 > len(data):
        return None
    columns, rows, left, top = struct.unpack_from(">4I", data, start + 8)
    (samples,) = struct.unpack_from(">H", data, start + 40)
    return FrameSize(rows - top, columns - left, samples)
