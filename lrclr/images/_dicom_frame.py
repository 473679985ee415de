"""From the pixel data of a DICOM file to the stored values of one frame."""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from lrclr.errors import ImageError, MissingExtraError
from lrclr.images._codestream import FrameSize, bare_jpeg2000, jpeg2000_size, jpeg_size, plain_lossless_jpeg

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["FrameLayout", "codestream_of", "decode_frame"]

_GREY = frozenset({"MONOCHROME1", "MONOCHROME2"})
_COLOUR = frozenset({"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"})
_PIXEL_KEYWORDS = {"PixelData": (1, 8, 16, 32), "FloatPixelData": (32,), "DoubleFloatPixelData": (64,)}

_ITEM = b"\xfe\xff\x00\xe0"
_BIG_ENDIAN = "1.2.840.10008.1.2.2"
_RLE = "1.2.840.10008.1.2.5"
_JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
_JPEG_LOSSLESS = frozenset(f"1.2.840.10008.1.2.4.{part}" for part in (57, 70))
_JPEG_2000 = frozenset(f"1.2.840.10008.1.2.4.{part}" for part in (90, 91, 201, 202, 203))

# For each compressed transfer syntax the plugins of pydicom, best first, and the package that brings the first. One
# is chosen and its word is final: pydicom itself tries all of them on a damaged frame, the slow and the unbounded
# among them.
_DECODERS: dict[str, tuple[tuple[str, ...], str]] = {
    "1.2.840.10008.1.2.4.50": (("pillow",), "pillow"),
    _JPEG_EXTENDED: (("pillow",), "pillow"),
    "1.2.840.10008.1.2.4.57": (("gdcm", "pylibjpeg"), "python-gdcm"),
    "1.2.840.10008.1.2.4.70": (("gdcm", "pylibjpeg"), "python-gdcm"),
    "1.2.840.10008.1.2.4.80": (("pyjpegls", "pylibjpeg", "gdcm"), "pyjpegls"),
    "1.2.840.10008.1.2.4.81": (("pyjpegls", "pylibjpeg", "gdcm"), "pyjpegls"),
    "1.2.840.10008.1.2.4.90": (("pylibjpeg", "gdcm", "pillow"), "pylibjpeg-openjpeg"),
    "1.2.840.10008.1.2.4.91": (("pylibjpeg", "gdcm", "pillow"), "pylibjpeg-openjpeg"),
    "1.2.840.10008.1.2.4.201": (("pylibjpeg",), "pylibjpeg-openjpeg"),
    "1.2.840.10008.1.2.4.202": (("pylibjpeg",), "pylibjpeg-openjpeg"),
    "1.2.840.10008.1.2.4.203": (("pylibjpeg",), "pylibjpeg-openjpeg"),
    _RLE: (("pylibjpeg",), "pylibjpeg-rle"),
}


@dataclass(frozen=True)
class FrameLayout:
    """The attributes that say how a frame is stored; sizes in pixels and bits."""

    transfer_syntax: str
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

    @classmethod
    def of(cls, dataset: Any) -> FrameLayout:
        """Read the layout from a data set.

        Raises:
            ImageError: there are no pixel data, or an attribute is missing or has no meaning.
        """
        keyword = next((name for name in _PIXEL_KEYWORDS if dataset.get(name)), None)
        if keyword is None:
            raise ImageError(
                "the DICOM file holds no image",
                why="it has no pixel data: it may be a report, a document or a directory, or be cut off",
                fix="Choose an image object",
            )
        integers = keyword == "PixelData"
        needed = ["Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated"]
        needed += ["BitsStored", "PixelRepresentation"] if integers else []
        missing = [name for name in needed if dataset.get(name) in (None, "")]
        if missing:
            raise ImageError(
                "the DICOM file does not say how its pixels are stored", why=f"it lacks {', '.join(missing)}"
            )
        allocated = int(dataset.BitsAllocated)
        stored = int(dataset.BitsStored) if integers else allocated
        layout = cls(
            transfer_syntax=str(dataset.file_meta.TransferSyntaxUID),
            pixel_keyword=keyword,
            rows=int(dataset.Rows),
            columns=int(dataset.Columns),
            samples=int(dataset.SamplesPerPixel),
            frames=max(1, int(dataset.get("NumberOfFrames") or 1)),
            bits_allocated=allocated,
            bits_stored=stored,
            high_bit=_number_or(dataset.get("HighBit"), stored - 1),
            signed=integers and int(dataset.PixelRepresentation) == 1,
            photometric=str(dataset.PhotometricInterpretation).strip().upper(),
        )
        layout._check()
        return layout

    def _check(self) -> None:
        fault = None
        if self.bits_allocated not in _PIXEL_KEYWORDS[self.pixel_keyword]:
            fault = f"{self.bits_allocated} bits allocated are not supported"
        elif not 1 <= self.bits_stored <= self.bits_allocated:
            fault = f"{self.bits_stored} bits stored do not fit in the {self.bits_allocated} allocated"
        elif self.photometric not in _GREY | _COLOUR | {"PALETTE COLOR"}:
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


def decode_frame(dataset: Any, layout: FrameLayout, index: int) -> NDArray[np.generic]:
    """Decode frame `index`.

    Returns:
        The stored values, `[H, W]`, or if there are three samples per pixel RGB, `[H, W, 3]`.

    Raises:
        ImageError: the transfer syntax is not supported, or the pixel data contradict the layout.
        MissingExtraError: no decoder for the transfer syntax is installed.
        Exception: nearly any other, if the pixel data are damaged.
    """
    decoder = _decoder_of(layout)
    if decoder.is_encapsulated:
        plugin = _choose_plugin(decoder, layout)
        if layout.transfer_syntax != _RLE or layout.frames > 1:
            # An only frame of RLE stays where it is: it has no header to look at, and megabytes to copy.
            _isolate(dataset, codestream_of(dataset, layout, index))
        index = 0
    else:
        plugin = ""
        _check_length(dataset, layout)
    shift = layout.high_bit - (layout.bits_stored - 1)
    by_hand = shift > 0 and (not decoder.is_encapsulated or layout.transfer_syntax == _RLE)
    options = {"correct_unused_bits": False} if by_hand else {}
    plain = not decoder.is_encapsulated and layout.transfer_syntax != _BIG_ENDIAN
    if plain and layout.samples == 1 and layout.bits_allocated > 1:
        # Nobody writes into the stored values, so they need not be copied where they can be had without.
        options["view_only"] = True
    array, properties = decoder.as_array(
        dataset, index=index, decoding_plugin=plugin, allow_excess_frames=False, **options
    )
    if layout.samples == 3 and properties["photometric_interpretation"] != "RGB":
        raise ImageError("the colours of the DICOM file cannot be brought to RGB", fix="Export it as RGB")
    return _take_bits(array, layout) if by_hand else cast("NDArray[np.generic]", array)


def _decoder_of(layout: FrameLayout) -> Any:
    from pydicom.pixels import get_decoder

    syntax = layout.transfer_syntax
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        decoder = None
    if decoder is None or (decoder.is_encapsulated and syntax not in _DECODERS):
        # The identifier is shown only if it is one: the element could hold anything.
        named = f" {syntax}" if re.fullmatch(r"[0-9.]{1,64}", syntax) else ""
        raise ImageError(f"the transfer syntax{named} of the DICOM file is not supported", fix="Export it uncompressed")
    return decoder


def _number_or(value: Any, default: int) -> int:
    return default if value in (None, "") else int(value)


def _choose_plugin(decoder: Any, layout: FrameLayout) -> str:
    plugins, package = _DECODERS[layout.transfer_syntax]
    if layout.transfer_syntax == _JPEG_EXTENDED and layout.bits_stored != 8:
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


def codestream_of(dataset: Any, layout: FrameLayout, index: int) -> bytes:
    """Return a compressed frame as a codestream that is safe to decode: of the size that the attributes say.

    Raises:
        ImageError: its header is damaged, or contradicts the attributes.
        Exception: nearly any other, if the pixel data are damaged.
    """
    from pydicom.encaps import get_frame

    offsets = (dataset.get("ExtendedOffsetTable"), dataset.get("ExtendedOffsetTableLengths"))
    encoded: bytes | None = get_frame(
        dataset.PixelData,
        index,
        number_of_frames=layout.frames,
        extended_offsets=offsets if all(offsets) else None,
    )
    size = None
    if encoded and layout.transfer_syntax in _JPEG_2000:
        encoded = bare_jpeg2000(encoded)
        size = jpeg2000_size(encoded or b"")
    elif encoded and layout.transfer_syntax != _RLE:
        size = jpeg_size(encoded)
        if layout.transfer_syntax in _JPEG_LOSSLESS:
            encoded = plain_lossless_jpeg(encoded, layout.bits_allocated)
    if not encoded:
        raise ImageError(
            "the pixel data of the DICOM file are damaged", why="the header of the compressed frame is not valid"
        )
    if layout.transfer_syntax != _RLE:
        _check_size(size, layout)
    return encoded


def _isolate(dataset: Any, encoded: bytes) -> None:
    """Leave one frame in `dataset`."""
    # pydicom's `encapsulate` copies a frame four times.
    dataset.PixelData = b"".join(
        (_ITEM, bytes(4), _ITEM, struct.pack("<I", len(encoded) + len(encoded) % 2), encoded, bytes(len(encoded) % 2))
    )
    dataset.NumberOfFrames = 1
    for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
        if keyword in dataset:
            del dataset[keyword]


def _check_size(size: FrameSize | None, layout: FrameLayout) -> None:
    if size != (layout.rows, layout.columns, layout.samples):
        found = f"{size.rows} by {size.columns} pixels of {size.samples} samples" if size else "without a size"
        raise ImageError(
            "the pixel data of the DICOM file contradict its attributes",
            why=f"the compressed frame is {found}, the attributes say {layout.rows} by {layout.columns} "
            f"of {layout.samples}",
        )


def _check_length(dataset: Any, layout: FrameLayout) -> None:
    held = len(dataset[layout.pixel_keyword].value)
    if held < layout.bytes_needed:
        raise ImageError(
            "the DICOM file is truncated, or its attributes are wrong",
            why=f"its pixel data are {held} bytes long, and {layout.bytes_needed} are needed for {layout.frames} "
            f"frame(s) of {layout.rows} by {layout.columns} pixels",
        )


def _take_bits(array: NDArray[Any], layout: FrameLayout) -> NDArray[np.generic]:
    """Take the stored bits from below the high bit, where pydicom assumes that they are the lowest."""
    high = min(layout.high_bit, layout.bits_allocated - 1)
    left = np.left_shift(array, layout.bits_allocated - 1 - high)
    shifted: NDArray[np.generic] = np.right_shift(left, layout.bits_allocated - layout.bits_stored)
    return shifted
