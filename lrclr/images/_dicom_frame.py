"""From the pixel data of a DICOM file to the stored values of one frame.

The pixel data themselves tell how they are compressed, and the transfer syntax only what to expect: a file that was
compressed or decompressed by a program that left its transfer syntax alone is read all the same, with a remark.
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from lrclr.errors import ImageError, MissingExtraError
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

    from numpy.typing import NDArray

    from lrclr.images._dicom_attributes import Attributes

__all__ = ["PIXEL_KEYWORDS", "Frame", "FrameLayout", "decode_frame", "open_frame", "with_delimiter"]

_GREY = frozenset({"MONOCHROME1", "MONOCHROME2"})
_COLOUR = frozenset({"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"})
_PALETTE = "PALETTE COLOR"
PIXEL_KEYWORDS = {"PixelData": (1, 8, 16, 32), "FloatPixelData": (32,), "DoubleFloatPixelData": (64,)}

_ITEM, _DELIMITER = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
_END_OF_IMAGE = b"\xff\xd9"
_PIXEL_DATA = b"\xe0\x7f\x10\x00"
_IMPLICIT, _EXPLICIT, _BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
_NATIVE = frozenset({_IMPLICIT, _EXPLICIT, _BIG_ENDIAN, "1.2.840.10008.1.2.1.99"})
_STANDARD = "1.2.840.10008."
_JPEG = "1.2.840.10008.1.2.4."
_JPEG_EXTENDED = f"{_JPEG}51"
_UID = re.compile(r"[0-9.]{1,64}")
_DAMAGED = "the pixel data of the DICOM file are damaged"
_BAD_HEADER = "the header of the compressed frame is not valid"
_OTHER_SYNTAX = "TransferSyntaxUID is not that of the pixel data and is ignored"

# The transfer syntaxes of each codec. The first is used where the file names none of them.
_SYNTAXES = {
    Codec.JPEG: (f"{_JPEG}50", _JPEG_EXTENDED),
    Codec.LOSSLESS_JPEG: (f"{_JPEG}57", f"{_JPEG}70"),
    Codec.JPEG_LS: (f"{_JPEG}81", f"{_JPEG}80"),
    Codec.JPEG_2000: (f"{_JPEG}91", f"{_JPEG}90"),
    Codec.HTJ2K: (f"{_JPEG}203", f"{_JPEG}201", f"{_JPEG}202"),
    Codec.RLE: ("1.2.840.10008.1.2.5",),
}
_COMPRESSED = frozenset(syntax for syntaxes in _SYNTAXES.values() for syntax in syntaxes)
_WAVELETS = frozenset({Codec.JPEG_2000, Codec.HTJ2K})
_DCT = frozenset({Codec.JPEG, Codec.LOSSLESS_JPEG})

# For each codec the plugins of pydicom, best first, and the package that brings the first. One is chosen and its result
# is final: pydicom itself tries all of them on a damaged frame, the slow and the unbounded among them.
_DECODERS: dict[Codec, tuple[tuple[str, ...], str]] = {
    Codec.JPEG: (("pillow",), "pillow"),
    Codec.LOSSLESS_JPEG: (("gdcm", "pylibjpeg"), "python-gdcm"),
    Codec.JPEG_LS: (("pyjpegls", "pylibjpeg", "gdcm"), "pyjpegls"),
    Codec.JPEG_2000: (("pylibjpeg", "gdcm", "pillow"), "pylibjpeg-openjpeg"),
    Codec.HTJ2K: (("pylibjpeg",), "pylibjpeg-openjpeg"),
    Codec.RLE: (("pylibjpeg",), "pylibjpeg-rle"),
}


@dataclass(frozen=True)
class FrameLayout:
    """The attributes that say how a frame is stored; sizes in pixels and bits."""

    pixel_keyword: str
    rows: int
    columns: int
    samples: int
    frames: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    photometric: str
    planes: bool

    @classmethod
    def of(cls, attributes: Attributes) -> FrameLayout:
        """Read the layout from a data set.

        Raises:
            ImageError: there are no pixel data, or an attribute that is needed is missing or has no meaning.
        """
        dataset = attributes.dataset
        keyword = next((name for name in PIXEL_KEYWORDS if dataset.get(name)), None)
        if keyword is None:
            raise ImageError(
                "the DICOM file holds no image",
                why="it has no pixel data: it may be a report, a document or a directory, or be cut off",
                fix="Choose an image object",
            )
        integers = keyword == "PixelData"
        needed = ["Rows", "Columns", "PhotometricInterpretation", "BitsAllocated"]
        needed += ["BitsStored", "PixelRepresentation"] if integers else []
        missing = [name for name in needed if attributes.lacks(name)]
        if missing:
            raise ImageError(
                "the DICOM file does not say how its pixels are stored", why=f"it lacks {', '.join(missing)}"
            )
        photometric = _photometric(attributes)
        samples = _samples(attributes, photometric)
        allocated = attributes.required("BitsAllocated")
        stored = attributes.required("BitsStored") if integers else allocated
        layout = cls(
            pixel_keyword=keyword,
            rows=attributes.required("Rows"),
            columns=attributes.required("Columns"),
            samples=samples,
            frames=attributes.integer("NumberOfFrames", 1, 2**31 - 1) or 1,
            bits_allocated=allocated,
            bits_stored=stored,
            high_bit=stored - 1,
            signed=integers and attributes.required("PixelRepresentation", most=1) == 1,
            photometric=photometric,
            planes=samples > 1 and attributes.integer("PlanarConfiguration", 0, 1) == 1,
        )
        layout._check()
        high_bit = attributes.integer("HighBit", stored - 1, allocated - 1) if integers else None
        return layout if high_bit is None else replace(layout, high_bit=high_bit)

    def _check(self) -> None:
        fault = None
        if self.bits_allocated not in PIXEL_KEYWORDS[self.pixel_keyword]:
            fault = f"{self.bits_allocated} bits allocated are not supported"
        elif not 1 <= self.bits_stored <= self.bits_allocated:
            fault = f"{self.bits_stored} bits stored do not fit in the {self.bits_allocated} allocated"
        elif self.photometric not in _GREY | _COLOUR | {_PALETTE}:
            fault = "the photometric interpretation is not supported"
        elif self.samples != (3 if self.photometric in _COLOUR else 1):
            fault = f"{self.samples} samples per pixel contradict the photometric interpretation"
        elif self.photometric in _COLOUR and (self.signed or self.pixel_keyword != "PixelData"):
            fault = "colour can be neither signed nor floating-point"
        if fault:
            raise ImageError("the pixels of the DICOM file are stored in a way that lrclr does not read", why=fault)

    @property
    def bytes_needed(self) -> int:
        """The least length of uncompressed pixel data, all frames together."""
        bits = self.rows * self.columns * self.samples * self.bits_allocated * self.frames
        if self.photometric == "YBR_FULL_422":
            bits = bits // 3 * 2
        return math.ceil(bits / 8)


def _photometric(attributes: Attributes) -> str:
    written = str(attributes.value("PhotometricInterpretation")).strip(" \0")
    for known in sorted(_GREY | _COLOUR | {_PALETTE}):
        if re.sub(r"[\s_]", "", known) == re.sub(r"[\s_]", "", written.upper()):
            if known != written:
                attributes.remark("PhotometricInterpretation is not written as the standard writes it")
            return known
    return written.upper()


def _samples(attributes: Attributes, photometric: str) -> int:
    samples = attributes.integer("SamplesPerPixel", 1, 4)
    if samples is not None:
        return samples
    attributes.remark("SamplesPerPixel is missing and is taken from PhotometricInterpretation")
    return 3 if photometric in _COLOUR else 1


@dataclass(frozen=True)
class Frame:
    """One frame, still encoded.

    Attributes:
        layout: of the file.
        syntax: the transfer syntax that it is decoded with.
        codec: how it is compressed; None if it is not.
        codestream: of a compressed frame; it is safe to decode, and of the size that the attributes say.
        bits: of a sample in the codestream; 0 where the codec has no such thing.
        index: its place in uncompressed pixel data.
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
    syntax = (_IMPLICIT if implicit else _EXPLICIT) if little else _BIG_ENDIAN
    return Frame(layout, syntax, index=index)


def _declared_syntax(dataset: Any) -> str:
    return str(dataset.file_meta.get("TransferSyntaxUID") or "").strip(" \0")


def _is_other_standard(syntax: str) -> bool:
    """Tell whether a transfer syntax is one that exists, and that this module knows nothing about."""
    from pydicom.uid import AllTransferSyntaxes

    if syntax in _NATIVE or syntax in _COMPRESSED:
        return False
    return syntax in AllTransferSyntaxes or bool(_UID.fullmatch(syntax) and not syntax.startswith(_STANDARD))


def _unsupported(syntax: str) -> ImageError:
    # The identifier is shown only if it is one: the element could hold anything.
    named = f" {syntax}" if _UID.fullmatch(syntax) else ""
    return ImageError(f"the transfer syntax{named} of the DICOM file is not supported", fix="Export it uncompressed")


def _is_encapsulated(dataset: Any, layout: FrameLayout, declared: str) -> bool:
    if layout.pixel_keyword != "PixelData":
        return False
    element = dataset["PixelData"]
    if element.value[:4] != _ITEM:
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
        syntax = _JPEG_EXTENDED
    return Frame(layout, syntax, codec, encoded, size.bits)


def _encoded(attributes: Attributes, layout: FrameLayout, index: int) -> bytes:
    """Return a compressed frame. Tables of offsets are looked at only where they are needed."""
    from pydicom.encaps import get_frame

    data = attributes.dataset.PixelData
    places = list(_items(data))
    rest = data[places[-1][1] if places else 0 :]
    if rest.strip(b"\0") and not rest.startswith(_DELIMITER):
        raise ImageError(_DAMAGED, why="the compressed frame is cut off")
    if layout.frames == 1:
        # The first item is a table of offsets, which some writers leave out.
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
    """Yield where the content of each item begins and ends, as long as one follows the other.

    Raises:
        ImageError: an item is longer than what is left of the data.
    """
    while data[place : place + 4] == _ITEM and place + 8 <= len(data):
        begin = place + 8
        place = begin + struct.unpack_from("<I", data, place + 4)[0]
        if place > len(data):
            raise ImageError(_DAMAGED, why="the compressed frame is cut off")
        yield begin, place


def with_delimiter(data: bytes) -> bytes | None:
    """Return a DICOM file whose encapsulated pixel data lack their end with that end.

    None if the pixel data are not encapsulated, or if a frame may be cut off.
    """
    for header in (b"OB\0\0", b"OW\0\0", b"UN\0\0", b""):
        place = data.rfind(_PIXEL_DATA + header + b"\xff\xff\xff\xff" + _ITEM)
        if place < 0:
            continue
        places = list(_items(data, place + 8 + len(header)))
        if not places:
            return None
        begin, end = places[-1]
        if data[begin:end].rstrip(b"\0").endswith(_END_OF_IMAGE) or codec_of(data[begin:end]) is Codec.RLE:
            return data[:end] + _DELIMITER + bytes(4)
        return None
    return None


def decode_frame(dataset: Any, frame: Frame) -> NDArray[np.generic]:
    """Decode a frame of a data set.

    Returns:
        The stored values, `[H, W]`, or if there are three samples per pixel RGB, `[H, W, 3]`.

    Raises:
        ImageError: the colours cannot be brought to RGB, or no installed package decodes the frame.
        MissingExtraError: no decoder for the codec is installed.
        Exception: nearly any other, if the pixel data are damaged.
    """
    from pydicom.pixels import get_decoder

    layout = frame.layout
    decoder = get_decoder(frame.syntax)
    plugin = _choose_plugin(decoder, frame)
    high_bit = _high_bit(frame)
    by_hand = high_bit >= layout.bits_stored or frame.bits > layout.bits_stored
    options: dict[str, bool] = {"correct_unused_bits": False} if by_hand else {}
    plain = frame.codec is None and frame.syntax != _BIG_ENDIAN
    if plain and layout.samples == 1 and 1 < layout.bits_allocated == layout.bits_stored:
        # Nothing writes into the stored values, so they need not be copied where they can be had without.
        options["view_only"] = True
    array, properties = decoder.as_array(
        _image_pixel(dataset, frame),
        index=frame.index,
        decoding_plugin=plugin,
        allow_excess_frames=False,
        **options,
    )
    if layout.samples == 3 and properties["photometric_interpretation"] != "RGB":
        raise ImageError("the colours of the DICOM file cannot be brought to RGB", fix="Export it as RGB")
    return _take_bits(array, high_bit, layout.bits_stored) if by_hand else cast("NDArray[np.generic]", array)


def _high_bit(frame: Frame) -> int:
    """Return the place of the highest stored bit in a decoded value.

    A codestream whose samples have no more bits than are stored holds nothing else.
    """
    packed = 0 < frame.bits <= frame.layout.bits_stored
    return frame.layout.bits_stored - 1 if packed else frame.layout.high_bit


def _image_pixel(dataset: Any, frame: Frame) -> Any:
    """Make a data set of what was checked and nothing else, with one frame if it is compressed."""
    from pydicom.dataset import Dataset

    layout, allocated, stored, signed = frame.layout, *_decoded_bits(frame)
    made = Dataset()
    made.Rows, made.Columns, made.SamplesPerPixel = layout.rows, layout.columns, layout.samples
    made.PhotometricInterpretation = layout.photometric
    made.BitsAllocated = allocated
    if layout.pixel_keyword == "PixelData":
        made.BitsStored, made.HighBit, made.PixelRepresentation = stored, stored - 1, int(signed)
    if layout.samples > 1:
        made.PlanarConfiguration = int(layout.planes)
    made.NumberOfFrames = layout.frames if frame.codec is None else 1
    element = dataset[layout.pixel_keyword]
    if frame.codec is None:
        made.add(element)
    else:
        made.add_new(element.tag, "OB", _encapsulated(frame.codestream))
    return made


def _decoded_bits(frame: Frame) -> tuple[int, int, bool]:
    """Return the bits allocated and stored, and the sign, that a decoder is told.

    Decoders of JPEG take them at their word. It knows no sign: that of a stored value is one of its own bits, which are
    all there only if a sample has as many.
    """
    layout = frame.layout
    if frame.codec not in _DCT:
        return layout.bits_allocated, layout.bits_stored, layout.signed
    allocated = 8 * math.ceil(frame.bits / 8)
    if frame.bits < layout.bits_stored:
        return allocated, min(layout.bits_stored, allocated), False
    return allocated, frame.bits, layout.signed


def _encapsulated(codestream: bytes) -> bytes:
    """Return pixel data of one frame. pydicom's `encapsulate` copies a frame four times."""
    odd = len(codestream) % 2
    return b"".join((_ITEM, bytes(4), _ITEM, struct.pack("<I", len(codestream) + odd), codestream, bytes(odd)))


def _choose_plugin(decoder: Any, frame: Frame) -> str:
    if frame.codec is None:
        return ""
    plugins, package = _DECODERS[frame.codec]
    if frame.syntax == _JPEG_EXTENDED and frame.bits != 8:
        plugins = ("pylibjpeg",)
        if "pylibjpeg" not in decoder.available_plugins:
            raise ImageError(
                "the pixel data of the DICOM file are 12-bit lossy JPEG, which no installed package decodes",
                fix="Export it in another transfer syntax, or install pylibjpeg-libjpeg (its licence is the GPL)",
            )
    for plugin in plugins:
        if plugin in decoder.available_plugins:
            return plugin
    raise MissingExtraError(package, "dicom", f"decoding {decoder.UID.name} pixel data")


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


def _take_bits(array: NDArray[Any], high_bit: int, bits_stored: int) -> NDArray[np.generic]:
    """Take the stored bits from below the high bit, where pydicom assumes that they are the lowest."""
    width = array.dtype.itemsize * 8
    left = np.left_shift(array, width - 1 - min(high_bit, width - 1))
    shifted: NDArray[np.generic] = np.right_shift(left, width - bits_stored)
    return shifted
