"""Reads DICOM files with pydicom, which is imported when the first DICOM file is read.

The parser keeps only the attributes that the picture and its checks need. So patient data is never in memory, and a
damaged element that the picture does not need is not an error.
"""

from __future__ import annotations

import struct
import traceback
import zlib
from dataclasses import replace
from io import BytesIO
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from lrclr import budget
from lrclr.errors import ImageError, MissingExtraError, first_line
from lrclr.images._arrays import scale_levels
from lrclr.images._dicom_attributes import Attributes
from lrclr.images._dicom_decode import decode_frame
from lrclr.images._dicom_frame import open_frame, with_delimiter
from lrclr.images._dicom_layout import PIXEL_KEYWORDS, FrameLayout
from lrclr.images._dicom_luts import display_of, palette_of
from lrclr.images._display import Display, to_grey
from lrclr.images._guard import attempt
from lrclr.images._memory import dicom_bytes
from lrclr.images._reduced import ReducedImage
from lrclr.images._wavelet import reduced_wavelet
from lrclr.input_checks import CHECKED_ATTRIBUTES, tag_warnings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from lrclr.images._dicom_frame import Frame
    from lrclr.images._limits import ReadLimits
    from lrclr.images._reduced import Wanted

_UNREADABLE = "the DICOM file cannot be read: it is damaged or truncated"
_UNDECODABLE = (
    "the pixel data of the DICOM file cannot be decoded: they are damaged or truncated, or contradict its attributes"
)
_REPAIR = "Export the file again, uncompressed if necessary"

_TAGS = [
    *("SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "VOILUTSequence", "WindowCenter", "WindowWidth"),
    *("VOILUTFunction", "PresentationLUTShape", "SegmentedRedPaletteColorLookupTableData"),
    *(f"{colour}PaletteColorLookupTableDescriptor" for colour in ("Red", "Green", "Blue")),
    *(f"{colour}PaletteColorLookupTableData" for colour in ("Red", "Green", "Blue")),
    *("PixelData", "FloatPixelData", "DoubleFloatPixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
    *CHECKED_ATTRIBUTES,
]

_PREAMBLE, _MAGIC = 128, b"DICM"
_PART = 2**20
_DEFLATED = "1.2.840.10008.1.2.1.99"
_EXPLICIT_HEADER = bytes(_PREAMBLE) + _MAGIC + struct.pack("<HH2sH20s", 2, 0x10, b"UI", 20, b"1.2.840.10008.1.2.1")
_VRS = frozenset(
    b"AE AS AT CS DA DS DT FD FL IS LO LT OB OD OF OL OV OW PN SH SL SQ SS ST SV TM UC UI UL UN UR US UT UV".split()
)


def looks_like_dicom(data: bytes) -> bool:
    """Return whether `data` is a DICOM file: by its magic bytes, or without a preamble by a plausible first element."""
    if data[_PREAMBLE : _PREAMBLE + 4] == _MAGIC:
        return True
    if len(data) < 8:
        return False
    vr = data[4:6]
    if data[:2] == b"\x00\x08" and data[2] == 0:
        return vr in _VRS
    group, element, length = struct.unpack_from("<HHI", data)
    if group not in (0x0002, 0x0008) or element > 0x00FF:
        return False
    return vr in _VRS or (length % 2 == 0 and length <= len(data) - 8)


def decode_dicom(data: bytes, frame: int | None, limits: ReadLimits, wanted: Wanted | None) -> ReducedImage:
    """Decode one frame of a DICOM file for display, as `[H, W]` or `[H, W, 3]`.

    JPEG 2000 is decoded without its finest levels where that is safe and `wanted` needs fewer pixels. Everything else
    is decoded in full.

    Raises:
        ImageError: the file holds no image or is damaged, `frame` is missing or does not exist, or the picture is too
            narrow for the preprocessing.
        ImageLimitError: the picture, or the inflated data set of a deflated file, is larger than `limits`.
        MissingExtraError: pydicom, or the decoder of the transfer syntax, is not installed.
    """
    attributes, found = _opened(data, frame, limits)
    reduced = None
    if wanted is not None:
        reduced = attempt(lambda: reduced_wavelet(attributes, found, wanted), failure=_UNDECODABLE, fix=_REPAIR)
    if reduced is None:
        reduced = ReducedImage.whole(_decoded(attributes, found))
    return replace(reduced, remarks=attributes.remarks, warnings=_warnings(attributes, found.layout))


def _warnings(attributes: Attributes, layout: FrameLayout) -> tuple[str, ...]:
    # A remark would be about an attribute that the picture does not need.
    value = Attributes(attributes.dataset).value
    return attempt(lambda: tag_warnings(value, layout.rows, layout.columns), failure=_UNREADABLE, fix=_REPAIR)


def _opened(data: bytes, frame: int | None, limits: ReadLimits) -> tuple[Attributes, Frame]:
    _require_pydicom()
    attributes = attempt(lambda: _parse(data, limits), failure=_UNREADABLE, fix=_REPAIR)
    layout = attempt(lambda: FrameLayout.of(attributes), failure=_UNREADABLE, fix=_REPAIR)
    limits.check_pixels(layout.rows, layout.columns)
    index = _frame_index(layout.frames, frame)
    found = attempt(lambda: open_frame(attributes, layout, index), failure=_UNDECODABLE, fix=_REPAIR)
    encoded = len(attributes.dataset[layout.pixel_keyword].value) if found.codec else 0
    budget.decoding.reserve(dicom_bytes(layout, encoded))
    return attributes, found


def _decoded(attributes: Attributes, frame: Frame) -> NDArray[np.uint8]:
    stored = attempt(lambda: decode_frame(attributes.dataset, frame), failure=_UNDECODABLE, fix=_REPAIR)
    return attempt(lambda: _show(attributes, frame.layout, stored), failure=_UNREADABLE, fix=_REPAIR)


def _require_pydicom() -> None:
    """Import pydicom. It imports the decoders that are installed, each of which may fail.

    Raises:
        MissingExtraError: pydicom is not installed.
        ImageError: it, or a decoder, fails when it is imported.
    """
    # No file's content is in these errors, so their text may be shown.
    try:
        import pydicom.pixels  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.partition(".")[0] == "pydicom":
            raise MissingExtraError("pydicom", "dicom", "reading DICOM") from None
        raise _broken_import(error) from error
    except Exception as error:
        raise _broken_import(error) from error


def _broken_import(error: Exception) -> ImageError:
    frames = traceback.extract_tb(error.__traceback__)
    return ImageError(
        "pydicom and the decoders that are installed for it cannot be imported",
        why=f"{type(error).__name__}: {first_line(error)}, in {frames[-1].filename}",
        fix="Reinstall that package, or uninstall it: lrclr needs it only for some transfer syntaxes.",
    )


def _parse(data: bytes, limits: ReadLimits) -> Attributes:
    plain = inflated(data, limits)
    dataset = _read(plain)
    if any(keyword in dataset for keyword in PIXEL_KEYWORDS):
        return Attributes(dataset)
    # pydicom cannot read a file in which the end of the encapsulated pixel data is not marked.
    ended = with_delimiter(plain)
    if ended is None:
        return Attributes(dataset)
    attributes = Attributes(_read(ended))
    attributes.remark("the end of PixelData is not marked")
    return attributes


def _read(data: bytes) -> Any:
    from pydicom import dcmread

    return dcmread(BytesIO(data), force=True, specific_tags=_TAGS)


def inflated(data: bytes, limits: ReadLimits) -> bytes:
    """Return `data` with its data set inflated, if it is deflated.

    pydicom would inflate all of it into memory, up to a thousand times the size of the file. This function inflates it
    once to find the size, and once more after the memory for it is reserved.
    """
    stream = BytesIO(data)
    stream.seek(_PREAMBLE + 4 if data[_PREAMBLE : _PREAMBLE + 4] == _MAGIC else 0)
    if _file_meta(stream).get("TransferSyntaxUID") != _DEFLATED:
        return data
    deflated = memoryview(data)[stream.tell() :]
    size = 0
    for part in _inflated_parts(deflated):
        size += len(part)
        limits.check_bytes(size, "the inflated data set")
    # pydicom makes a copy of the pixel data.
    budget.files.reserve(len(data) + 2 * size + size // 4)
    whole = BytesIO()
    whole.write(_EXPLICIT_HEADER)
    for part in _inflated_parts(deflated):
        whole.write(part)
    return whole.getvalue()


def _inflated_parts(deflated: memoryview) -> Iterator[bytes]:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    for start in range(0, len(deflated), _PART):
        rest: bytes | memoryview = deflated[start : start + _PART]
        while rest and not inflater.eof:
            yield inflater.decompress(rest, _PART)
            rest = inflater.unconsumed_tail
    while not inflater.eof and (part := inflater.decompress(b"", _PART)):
        yield part
    if not inflater.eof:
        raise ImageError(_UNREADABLE, fix=_REPAIR)


def _file_meta(stream: BytesIO) -> Any:
    """Read group 2 as pydicom does, so that both find the same transfer syntax.

    If pydicom cannot parse the first element, it tries another encoding. This function refuses the file instead.
    """
    from pydicom.filereader import read_dataset

    meta = read_dataset(stream, False, True, stop_when=_after_group_2)
    for element in meta.elements():
        meta[element.tag]
        break
    return meta


def _after_group_2(tag: int, _vr: str | None, _length: int) -> bool:
    return tag >> 16 != 2


def _frame_index(count: int, frame: int | None) -> int:
    if frame is None and count > 1:
        fix = f"Choose a frame from 0 to {count - 1} (--frame, in Python frame=)."
        raise ImageError(f"the DICOM file has {count} frames", fix=fix)
    if frame is not None and frame >= count:
        raise ImageError(f"frame {frame} does not exist: the DICOM file has {count} frame(s), counted from 0")
    return frame or 0


def _show(attributes: Attributes, layout: FrameLayout, stored: NDArray[np.generic]) -> NDArray[np.uint8]:
    if layout.samples == 3:
        return _colours(stored, 2**layout.bits_stored - 1)
    if layout.photometric == "PALETTE COLOR":
        luts = palette_of(attributes.dataset, layout)
        return np.stack([to_grey(stored, Display(voi=lut)) for lut in luts], axis=-1)
    if stored.dtype.kind == "f" and not np.isfinite(stored).all():
        raise ImageError("the pixel data of the DICOM file hold values that are not finite numbers")
    return to_grey(stored, display_of(attributes, layout))


def _colours(stored: NDArray[np.generic], white: int) -> NDArray[np.uint8]:
    if white <= 65535:
        colours = (
            stored
            if white == 255 and stored.dtype == np.uint8
            else scale_levels(cast("NDArray[np.integer]", stored), white)
        )
    else:
        colours = np.empty(stored.shape, np.uint8)
        # Row by row, since the intermediate arrays take 72 bytes a pixel.
        for row, values in zip(colours, stored, strict=True):
            row[:] = np.rint(np.clip(values.astype(np.float64) / white, 0, 1) * 255)
    return np.array(colours, dtype=np.uint8, order="C")
