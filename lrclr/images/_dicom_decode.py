"""Decodes one frame of a DICOM file with pydicom and its plugins."""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from lrclr.errors import ImageError, MissingExtraError
from lrclr.images._codestream import Codec
from lrclr.images._dicom_frame import BIG_ENDIAN, ITEM, JPEG_EXTENDED
from lrclr.images._jpeg import loaded_jpeg
from lrclr.images._lossless_jpeg import check_lossless

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lrclr.images._dicom_frame import Frame

_DCT = frozenset({Codec.JPEG, Codec.LOSSLESS_JPEG})

# For each codec the plugins of pydicom, best first, and the package that contains the first. Only one plugin is tried:
# pydicom itself would try all of them on a damaged frame, and some are slow or take unbounded memory.
_DECODERS: dict[Codec, tuple[tuple[str, ...], str]] = {
    Codec.JPEG: (("pillow",), "pillow"),
    Codec.LOSSLESS_JPEG: (("gdcm", "pylibjpeg"), "python-gdcm"),
    Codec.JPEG_LS: (("pyjpegls", "pylibjpeg", "gdcm"), "pyjpegls"),
    Codec.JPEG_2000: (("pylibjpeg", "gdcm", "pillow"), "pylibjpeg-openjpeg"),
    Codec.HTJ2K: (("pylibjpeg",), "pylibjpeg-openjpeg"),
    Codec.RLE: (("pylibjpeg",), "pylibjpeg-rle"),
}


def decode_frame(dataset: Any, frame: Frame) -> NDArray[np.generic]:
    """Decode a frame of a data set.

    Returns:
        Stored values, `[H, W]`; or RGB, `[H, W, 3]`, if the file has three samples per pixel.

    Raises:
        ImageError: the colours cannot be converted to RGB, or no installed package decodes the frame.
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
    plain = frame.codec is None and frame.syntax != BIG_ENDIAN
    if plain and layout.samples == 1 and 1 < layout.bits_allocated == layout.bits_stored:
        # Nothing writes into the stored values, so a view is enough.
        options["view_only"] = True
    if frame.codec is Codec.JPEG and plugin == "pillow":
        image = loaded_jpeg(frame.codestream)
        if layout.samples == 1 and not layout.signed:
            grey = np.asarray(image)
            return _take_bits(grey, high_bit, layout.bits_stored) if by_hand else grey
    array, properties = decoder.as_array(
        _image_pixel(dataset, frame),
        index=frame.index,
        decoding_plugin=plugin,
        allow_excess_frames=False,
        **options,
    )
    if frame.codec is Codec.LOSSLESS_JPEG:
        check_lossless(frame.codestream, array, frame.bits)
    if layout.samples == 3 and properties["photometric_interpretation"] != "RGB":
        raise ImageError("the colours of the DICOM file cannot be converted to RGB", fix="Export it as RGB")
    return _take_bits(array, high_bit, layout.bits_stored) if by_hand else cast("NDArray[np.generic]", array)


def can_decode_12_bit_jpeg() -> bool:
    """Whether a decoder of lossy JPEG of more than 8 bits is installed."""
    from pydicom.pixels import get_decoder

    return "pylibjpeg" in get_decoder(JPEG_EXTENDED).available_plugins


def _high_bit(frame: Frame) -> int:
    """Return the position of the highest stored bit in a decoded value.

    If the samples of the codestream have at most the stored bits, the stored bits are the lowest ones.
    """
    packed = 0 < frame.bits <= frame.layout.bits_stored
    return frame.layout.bits_stored - 1 if packed else frame.layout.high_bit


def _image_pixel(dataset: Any, frame: Frame) -> Any:
    """Make a data set from checked values only. If the frame is compressed, the data set holds this frame alone."""
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
    """Return the bits allocated, the bits stored and the sign to pass to the decoder.

    JPEG decoders use these values as they are. JPEG itself has no sign: the sign of a stored value is one of its bits,
    and it is present only if a sample has all of the stored bits.
    """
    layout = frame.layout
    if frame.codec not in _DCT:
        return layout.bits_allocated, layout.bits_stored, layout.signed
    allocated = 8 * math.ceil(frame.bits / 8)
    if frame.bits < layout.bits_stored:
        return allocated, min(layout.bits_stored, allocated), False
    return allocated, frame.bits, layout.signed


def _encapsulated(codestream: bytes) -> bytes:
    """Return encapsulated pixel data of one frame. pydicom's `encapsulate` would copy the frame four times."""
    odd = len(codestream) % 2
    return b"".join((ITEM, bytes(4), ITEM, struct.pack("<I", len(codestream) + odd), codestream, bytes(odd)))


def _choose_plugin(decoder: Any, frame: Frame) -> str:
    if frame.codec is None:
        return ""
    plugins, package = _DECODERS[frame.codec]
    if frame.syntax == JPEG_EXTENDED and frame.bits != 8:
        plugins = ("pylibjpeg",)
        if not can_decode_12_bit_jpeg():
            raise ImageError(
                "the pixel data of the DICOM file are 12-bit lossy JPEG, which no installed package decodes",
                fix="Export it in another transfer syntax, or install pylibjpeg-libjpeg (its licence is the GPL)",
            )
    for plugin in plugins:
        if plugin in decoder.available_plugins:
            return plugin
    raise MissingExtraError(package, "dicom", f"decoding {decoder.UID.name} pixel data")


def _take_bits(array: NDArray[Any], high_bit: int, bits_stored: int) -> NDArray[np.generic]:
    """Extract the stored bits below the high bit. pydicom assumes that they are the lowest bits."""
    width = array.dtype.itemsize * 8
    left = np.left_shift(array, width - 1 - min(high_bit, width - 1))
    shifted: NDArray[np.generic] = np.right_shift(left, width - bits_stored)
    return shifted
