"""Finds one frame in the pixel data of a DICOM file, and how it is compressed.

The pixel data decide which codec is used; the transfer syntax is only a hint. Some programs compress or decompress a
file and leave its transfer syntax unchanged: such a file is read, with a remark.
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from lrclr.errors import ImageError
from lrclr.images._codestream import (
    Codec,
    FrameSize,
    bare_jpeg2000,
    codec_of,
    jpeg2000_size,
    jpeg_size,
    plain_lossless_jpeg,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lrclr.images._dicom_attributes import Attributes
    from lrclr.images._dicom_layout import FrameLayout

ITEM, DELIMITER = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
_END_OF_IMAGE = b"\xff\xd9"
_PIXEL_DATA = b"\xe0\x7f\x10\x00"
_IMPLICIT, _EXPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
_NATIVE = frozenset({_IMPLICIT, _EXPLICIT, BIG_ENDIAN, "1.2.840.10008.1.2.1.99"})
_STANDARD = "1.2.840.10008."
_JPEG = "1.2.840.10008.1.2.4."
# Encapsulated but uncompressed, and JPEG XL, which pydicom does not know yet.
_NEWER = frozenset({"1.2.840.10008.1.2.1.98", *(f"{_JPEG}{number}" for number in (110, 111, 112))})
JPEG_EXTENDED = f"{_JPEG}51"
_UID = re.compile(r"[0-9.]{1,64}")
_DAMAGED = "the pixel data of the DICOM file are damaged"
_BAD_HEADER = "the header of the compressed frame is not valid"
_OTHER_SYNTAX = "TransferSyntaxUID does not match the pixel data and is ignored"

# The transfer syntaxes of each codec. The first one is used if the file names none of them.
_SYNTAXES = {
    Codec.JPEG: (f"{_JPEG}50", JPEG_EXTENDED),
    Codec.LOSSLESS_JPEG: (f"{_JPEG}57", f"{_JPEG}70"),
    Codec.JPEG_LS: (f"{_JPEG}81", f"{_JPEG}80"),
    Codec.JPEG_2000: (f"{_JPEG}91", f"{_JPEG}90"),
    Codec.HTJ2K: (f"{_JPEG}203", f"{_JPEG}201", f"{_JPEG}202"),
    Codec.RLE: ("1.2.840.10008.1.2.5",),
}
_COMPRESSED = frozenset(syntax for syntaxes in _SYNTAXES.values() for syntax in syntaxes)
_WAVELETS = frozenset({Codec.JPEG_2000, Codec.HTJ2K})


@dataclass(frozen=True)
class Frame:
    """One frame before decoding.

    Attributes:
        layout: layout of the file.
        syntax: transfer syntax to decode with.
        codec: codec of a compressed frame; None if the frame is not compressed.
        codestream: bytes of a compressed frame. They are safe to decode, and have the size that the attributes give.
        bits: bits of a sample in the codestream; 0 if the codec does not record them.
        index: position in uncompressed pixel data, from 0.
    """

    layout: FrameLayout
    syntax: str
    codec: Codec | None = None
    codestream: bytes = b""
    bits: int = 0
    index: int = 0


def open_frame(attributes: Attributes, layout: FrameLayout, index: int) -> Frame:
    """Find frame `index` in the pixel data, and how it is compressed.

    Raises:
        ImageError: the transfer syntax is not supported, or the pixel data are damaged or contradict the layout.
        Exception: nearly any other, if the pixel data are damaged.
    """
    declared = _declared_syntax(attributes.dataset)
    if _is_encapsulated(attributes.dataset, layout, declared):
        return _open_compressed(attributes, layout, index, declared)
    _check_length(attributes, layout)
    if declared not in _NATIVE:
        if _is_other_standard(declared):
            raise _unsupported(declared)
        if declared:
            attributes.remark(_OTHER_SYNTAX)
    implicit, little = attributes.dataset.original_encoding
    syntax = (_IMPLICIT if implicit else _EXPLICIT) if little else BIG_ENDIAN
    return Frame(layout, syntax, index=index)


def _declared_syntax(dataset: Any) -> str:
    return str(dataset.file_meta.get("TransferSyntaxUID") or "").strip(" \0")


def _is_other_standard(syntax: str) -> bool:
    """Return whether a transfer syntax exists, or is a private one, and this module does not support it."""
    from pydicom.uid import AllTransferSyntaxes

    if syntax in _NATIVE or syntax in _COMPRESSED:
        return False
    if syntax in AllTransferSyntaxes or syntax in _NEWER:
        return True
    return bool(_UID.fullmatch(syntax) and not syntax.startswith(_STANDARD))


def _unsupported(syntax: str) -> ImageError:
    # The value is shown only if it is a valid UID, since a damaged element can hold anything.
    named = f" {syntax}" if _UID.fullmatch(syntax) else ""
    return ImageError(f"the transfer syntax{named} of the DICOM file is not supported", fix="Export it uncompressed")


def _is_encapsulated(dataset: Any, layout: FrameLayout, declared: str) -> bool:
    if layout.pixel_keyword != "PixelData":
        return False
    element = dataset["PixelData"]
    if element.value[:4] != ITEM:
        return declared in _COMPRESSED and len(element.value) < layout.bytes_needed
    return bool(element.is_undefined_length) or declared not in _NATIVE or len(element.value) < layout.bytes_needed


def _open_compressed(attributes: Attributes, layout: FrameLayout, index: int, declared: str) -> Frame:
    encoded = _encoded(attributes, layout, index)
    codec = codec_of(encoded)
    if codec is None and any(declared in _SYNTAXES[one] for one in _WAVELETS):
        encoded = bare_jpeg2000(encoded) or b""
        codec = codec_of(encoded)
    if codec is None:
        if _is_other_standard(declared):
            raise _unsupported(declared)
        raise ImageError(_DAMAGED, why=_BAD_HEADER)
    syntaxes = _SYNTAXES[codec]
    if declared not in syntaxes:
        attributes.remark(_OTHER_SYNTAX)
    syntax = declared if declared in syntaxes else syntaxes[0]
    if codec is Codec.RLE:
        return Frame(layout, syntax, codec, encoded)
    if codec in _WAVELETS:
        encoded = bare_jpeg2000(encoded) or b""
    size = jpeg2000_size(encoded) if codec in _WAVELETS else jpeg_size(encoded)
    if codec is Codec.LOSSLESS_JPEG:
        allocated = 8 * math.ceil(size.bits / 8) if size else 0
        encoded = plain_lossless_jpeg(encoded, min(allocated, layout.bits_allocated)) or b""
    if not encoded or size is None:
        raise ImageError(_DAMAGED, why=_BAD_HEADER)
    _check_size(size, layout)
    if codec is Codec.JPEG and size.bits == 8:
        # pydicom refuses "extended" where fewer bits count than are decoded.
        syntax = syntax if layout.bits_stored == 8 else syntaxes[0]
    elif codec is Codec.JPEG:
        syntax = JPEG_EXTENDED
    return Frame(layout, syntax, codec, encoded, size.bits)


def _encoded(attributes: Attributes, layout: FrameLayout, index: int) -> bytes:
    """Return the bytes of a compressed frame. Offset tables are used only if they are needed."""
    from pydicom.encaps import get_frame

    data = attributes.dataset.PixelData
    places = list(_items(data))
    rest = data[places[-1][1] if places else 0 :]
    if rest.strip(b"\0") and not rest.startswith(DELIMITER):
        raise ImageError(_DAMAGED, why="the compressed frame is cut off")
    if layout.frames == 1:
        # The first item is an offset table, which some writers leave out.
        first = 0 if places and codec_of(data[slice(*places[0])]) else 1
        return b"".join(data[begin:end] for begin, end in places[first:])
    if len(places) == layout.frames + 1:
        return cast("bytes", data[slice(*places[1 + index])])
    offsets = (attributes.value("ExtendedOffsetTable"), attributes.value("ExtendedOffsetTableLengths"))
    encoded: bytes | None = get_frame(
        data, index, number_of_frames=layout.frames, extended_offsets=offsets if all(offsets) else None
    )
    return encoded or b""


def _items(data: bytes, place: int = 0) -> Iterator[tuple[int, int]]:
    """Yield the start and end of the content of each consecutive item.

    Raises:
        ImageError: an item is longer than the rest of the data.
    """
    while data[place : place + 4] == ITEM and place + 8 <= len(data):
        begin = place + 8
        place = begin + struct.unpack_from("<I", data, place + 4)[0]
        if place > len(data):
            raise ImageError(_DAMAGED, why="the compressed frame is cut off")
        yield begin, place


def with_delimiter(data: bytes) -> bytes | None:
    """Append the missing sequence delimiter to the encapsulated pixel data of a DICOM file.

    Return None if the pixel data are not encapsulated, or if a frame may be truncated.
    """
    for header in (b"OB\0\0", b"OW\0\0", b"UN\0\0", b""):
        place = data.rfind(_PIXEL_DATA + header + b"\xff\xff\xff\xff" + ITEM)
        if place < 0:
            continue
        places = list(_items(data, place + 8 + len(header)))
        if not places:
            return None
        begin, end = places[-1]
        if data[begin:end].rstrip(b"\0").endswith(_END_OF_IMAGE) or codec_of(data[begin:end]) is Codec.RLE:
            return data[:end] + DELIMITER + bytes(4)
        return None
    return None


def _check_size(size: FrameSize, layout: FrameLayout) -> None:
    if size[:3] != (layout.rows, layout.columns, layout.samples):
        raise ImageError(
            "the pixel data of the DICOM file contradict its attributes",
            why=f"the compressed frame is {size.rows} by {size.columns} pixels of {size.samples} samples, "
            f"the attributes say {layout.rows} by {layout.columns} of {layout.samples}",
        )


def _check_length(attributes: Attributes, layout: FrameLayout) -> None:
    held = len(attributes.dataset[layout.pixel_keyword].value)
    if held < layout.bytes_needed:
        raise ImageError(
            "the DICOM file is truncated, or its attributes are wrong",
            why=f"its pixel data are {held} bytes long, and {layout.bytes_needed} are needed for {layout.frames} "
            f"frame(s) of {layout.rows} by {layout.columns} pixels",
        )
    if held >= layout.bytes_needed // layout.frames * (layout.frames + 1):
        attributes.remark(f"{layout.pixel_keyword} holds more frames than NumberOfFrames says")
