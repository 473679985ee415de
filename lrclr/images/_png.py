"""The slow half of decoding a PNG, inflating, by ISA-L where it is installed (``pip install '.[fast]'``)."""

from __future__ import annotations

import struct
from itertools import islice, pairwise
from typing import TYPE_CHECKING

from lrclr.images._container import png_chunks

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["inflated_png"]

# By colour type.
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_KNOWN_DEPTHS = {1, 2, 4, 8, 16}
_ZLIB_HEADER = b"\x78\x01"
_STORED = 65535
# More of them than any encoder writes would only fill the memory.
_MAX_CHUNKS = 2**16


def inflated_png(data: bytes) -> bytes:
    """Return the same PNG file with its pixels stored instead of deflated, or `data` if that cannot be told for sure.

    The result is for Pillow, which undoes the filters and has the last word on everything else. It is never longer than
    the pixels that the header promises, which the caller has checked, and the other chunks. Files that are interlaced,
    animated, damaged or cut off are left as they are, and so are all where isal is not installed.
    """
    try:
        from isal import igzip_lib, isal_zlib
    except ImportError:
        return data
    chunks = list(islice(png_chunks(data), _MAX_CHUNKS))
    names = [name for name, _, _ in chunks]
    deflated = [place for place, name in enumerate(names) if name == b"IDAT"]
    if not deflated or names[0] != b"IHDR" or names[-1] != b"IEND" or b"acTL" in names:
        return data
    length = _filtered_length(data[slice(*chunks[0][1:])])
    if length is None or any(after - before != 1 for before, after in pairwise(deflated)):
        return data
    inflater = isal_zlib.decompressobj()
    try:
        pixels = inflater.decompress(b"".join(data[slice(*chunks[place][1:])] for place in deflated), length + 1)
    except igzip_lib.IsalError:  # type: ignore[misc] # its stub has an instance where the class is
        return data
    if len(pixels) != length or not inflater.eof:
        return data
    stored = b"".join([_ZLIB_HEADER, *_blocks(pixels), struct.pack(">I", isal_zlib.adler32(pixels))])
    first, last = chunks[deflated[0]], chunks[deflated[-1]]
    head = struct.pack(">I", len(stored)) + b"IDAT"
    check = struct.pack(">I", isal_zlib.crc32(stored, isal_zlib.crc32(b"IDAT")))
    return b"".join([data[: first[1] - 8], head, stored, check, data[last[2] + 4 :]])


def _filtered_length(header: bytes) -> int | None:
    """Return how many bytes inflating must give; None for what this module leaves alone."""
    if len(header) != 13:
        return None
    width, height, depth, colour, method, filters, interlace = struct.unpack(">IIBBBBB", header)
    if colour not in _CHANNELS or depth not in _KNOWN_DEPTHS or method or filters or interlace:
        return None
    return int(height * (1 + (width * _CHANNELS[colour] * depth + 7) // 8))


def _blocks(pixels: bytes) -> Iterator[bytes | memoryview]:
    """Yield the stored blocks of a deflate stream."""
    view = memoryview(pixels)
    for start in range(0, len(view), _STORED):
        block = view[start : start + _STORED]
        yield struct.pack("<BHH", start + _STORED >= len(view), len(block), len(block) ^ 0xFFFF)
        yield block
