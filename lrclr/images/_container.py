"""Removes optional parts from PNG, JPEG and TIFF files: texts, colour profiles, comments, thumbnails.

Pillow refuses a file if an optional part is damaged, or is longer than Pillow allows. With these parts removed, Pillow
reads the picture, and still checks every part that the picture needs.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Final

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
# This bit in the first letter of a chunk's name marks an optional chunk.
_ANCILLARY: Final = 0x20
_ANIMATION: Final = frozenset({b"acTL", b"fcTL", b"fdAT"})
# Text chunks that can hold the orientation of the picture.
_ORIENTATION_TEXTS: Final = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")
_MAX_TEXT: Final = 2**20
# No encoder writes more parts; a file with more would only take time.
_MAX_PARTS: Final = 2**16
_BAD_CHUNK: Final = "an optional chunk of the PNG file is damaged and is ignored"

_SOS, _APP0, _APP1, _ADOBE, _APP15, _COM = 0xDA, 0xE0, 0xE1, 0xEE, 0xEF, 0xFE
_JFIF, _JFIF_LENGTH = b"JFIF\0", 14

# Size, bits, compression, photometric, strips, samples, planes, fax options, predictor, colours, tiles, inks, extra
# samples, sample format, tables of JPEG, YCbCr.
_TIFF_TAGS: Final = frozenset(
    {*range(256, 260), 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320, *range(322, 326), 332, 334, 338, 339, 347}
    | {*range(512, 522), *range(529, 533)}
)
_ORIENTATION, _SHORT = 274, 3
_BAD_ORIENTATION: Final = "the orientation of the TIFF file is not valid and is ignored"
_MAX_FRAMES: Final = 1000


def picture_parts(data: bytes) -> tuple[bytes, tuple[str, ...]]:
    """Return a PNG, JPEG or TIFF file without its optional parts, and remarks on what was damaged.

    Parts that cannot be parsed stay unchanged.
    """
    if data.startswith(PNG):
        return _png_parts(data)
    return (_jpeg_parts(data), ()) if data.startswith(JPEG) else _tiff_parts(data)


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield each chunk's name and the start and end of its content, up to IEND or the first truncated chunk."""
    place = len(PNG)
    while place + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, place)
        begin, end = place + 8, place + 8 + length
        if end + 4 > len(data):
            return
        yield name, begin, end
        if name == b"IEND":
            return
        place = end + 4


def _png_parts(data: bytes) -> tuple[bytes, tuple[str, ...]]:
    view, parts, kept = memoryview(data), [], 0
    remarks: tuple[str, ...] = ()
    colour = data[25:26]
    for number, (name, begin, end) in enumerate(png_chunks(data)):
        if number >= _MAX_PARTS:
            break
        if not name[0] & _ANCILLARY or name in _ANIMATION:
            continue
        whole = zlib.crc32(view[begin - 4 : end]) == int.from_bytes(view[end : end + 4], "big")
        fits = name != b"tRNS" or _is_transparency(end - begin, colour)
        if not whole or not fits:
            remarks = (_BAD_CHUNK,)
        elif name in {b"tRNS", b"eXIf"} or _may_turn(name, data[begin : min(end, begin + _MAX_TEXT)], end - begin):
            continue
        parts.append(view[kept : begin - 8])
        kept = end + 4
    return (b"".join([*parts, view[kept:]]) if parts else data), remarks


def _is_transparency(length: int, colour: bytes) -> bool:
    """Return whether the content of a tRNS chunk has the right length for a colour type."""
    return {b"\0": length == 2, b"\2": length == 6, b"\3": 1 <= length <= 256}.get(colour, False)


def _may_turn(name: bytes, content: bytes, length: int) -> bool:
    """Return whether a text chunk can hold the orientation, and is short enough for Pillow."""
    if name not in {b"tEXt", b"zTXt", b"iTXt"} or not content.startswith(_ORIENTATION_TEXTS) or length > _MAX_TEXT:
        return False
    text = content.partition(b"\0")[2]
    if name == b"iTXt":
        packed = text[:1] == b"\1"
        text = text[2:].split(b"\0", 2)[-1]
    else:
        packed, text = name == b"zTXt", text[name == b"zTXt" :]
    if not packed:
        return True
    inflater = zlib.decompressobj()
    try:
        inflater.decompress(text, _MAX_TEXT)
    except zlib.error:
        return False
    return inflater.eof


def _jpeg_parts(data: bytes) -> bytes:
    view, parts, kept, place = memoryview(data), [], 0, 2
    while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] not in {0xFF, _SOS}:
        marker, (length,) = data[place + 1], struct.unpack_from(">H", data, place + 2)
        end = place + 2 + length
        if length < 2 or end > len(data) or marker in {0x01, *range(0xD0, 0xD9)}:
            break
        short = data[place + 4 : place + 9] == _JFIF and length - 2 < _JFIF_LENGTH
        needed = marker in {_APP0, _APP1, _ADOBE} and not (marker == _APP0 and short)
        if not needed and (_APP0 <= marker <= _APP15 or marker == _COM):
            parts.append(view[kept:place])
            kept = end
        place = end
    return b"".join([*parts, view[kept:]]) if parts else data


def _tiff_parts(data: bytes) -> tuple[bytes, tuple[str, ...]]:
    """Remove the entries of optional tags from the directories; all offsets stay the same."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2], "<")
    big = data[2:4] in {b"+\0", b"\0+"}
    number, pointer, entry, first = ("Q", "Q", 20, 8) if big else ("H", "I", 12, 4)
    width, pointer_width = struct.calcsize(f"={number}"), struct.calcsize(f"={pointer}")
    if len(data) < first + pointer_width:
        return data, ()
    changes: list[tuple[int, bytes]] = []
    seen: set[int] = set()
    remarks: tuple[str, ...] = ()
    (place,) = struct.unpack_from(f"{order}{pointer}", data, first)
    while place and place not in seen and place + width <= len(data) and len(seen) < _MAX_FRAMES:
        seen.add(place)
        (count,) = struct.unpack_from(f"{order}{number}", data, place)
        begin, end = place + width, place + width + count * entry
        if count > _MAX_PARTS or end + pointer_width > len(data):
            break
        entries = [data[at : at + entry] for at in range(begin, end, entry)]
        needed = []
        for one in entries:
            tag, kind, values = struct.unpack_from(f"{order}HH{pointer}", one)
            turned = tag == _ORIENTATION and (kind, values) == (_SHORT, 1)
            if tag in _TIFF_TAGS or (
                turned and 1 <= struct.unpack_from(f"{order}H", one, entry - pointer_width)[0] <= 8
            ):
                needed.append(one)
            elif tag == _ORIENTATION:
                remarks = (_BAD_ORIENTATION,)
        following = data[end : end + pointer_width]
        if len(needed) < count:
            changes.append((place, b"".join([struct.pack(f"{order}{number}", len(needed)), *needed, following])))
        (place,) = struct.unpack(f"{order}{pointer}", following)
    return _patched(data, changes), remarks


def _patched(data: bytes, changes: list[tuple[int, bytes]]) -> bytes:
    """Overwrite parts of a file. This makes one copy only, since a file can be large."""
    view, kept = memoryview(data), 0
    parts: list[bytes | memoryview] = []
    for place, content in sorted(changes):
        if place < kept:
            # The directories overlap. No encoder writes such a file.
            return data
        parts += [view[kept:place], content]
        kept = place + len(content)
    return b"".join([*parts, view[kept:]]) if changes else data
