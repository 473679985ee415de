"""Reads and checks the headers of compressed frames before a decoder gets them.

A decoder allocates memory for the size in the codestream, not for the size in the DICOM attributes. Some native
decoders crash the process or loop for ever on a damaged header. So this module reads the size first, and rebuilds the
codestream for such decoders from checked parts only.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import Enum
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lrclr.images._packets import Coding

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SOC_SIZ = b"\xff\x4f\xff\x51"
_JP2 = b"\x00\x00\x00\x0cjP  "
_SOI = b"\xff\xd8"
_CAP, _COD, _COC, _SOT, _SOD, _EOC = 0x50, 0x52, 0x53, 0x90, 0x93, b"\xff\xd9"
_QCD = 0x5C
# Other quantization, regions of interest, other progression orders, packed packet headers.
_ODD = frozenset({_COC, 0x5D, 0x5E, 0x5F, 0x60, 0x61})
# Some files hold a JP2 file instead of a codestream; its codestream begins after these bytes at the latest.
_MAX_BOXES = 65536
# A file with more tile-parts would only take time.
_MAX_TILE_PARTS = 2**16
# Bytes after the last sample.
_FEW_BYTES, _MAX_PADDING = 16, 4096
_DHT, _SOS, _DRI, _LOSSLESS, _JPEG_LS = 0xC4, 0xDA, 0xDD, 0xC3, 0xF7
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}
_FRAME_HEADERS = {*range(0xC0, 0xD0), _JPEG_LS} - {_DHT, 0xC8, 0xCC}
# Baseline, extended and progressive Huffman coding.
_LOSSY = {0xC0, 0xC1, 0xC2}
_RLE_HEADER, _MAX_RLE_SEGMENTS = 64, 15


class Codec(Enum):
    """How a frame is compressed."""

    JPEG = "JPEG"
    LOSSLESS_JPEG = "lossless JPEG"
    JPEG_LS = "JPEG-LS"
    JPEG_2000 = "JPEG 2000"
    HTJ2K = "High-Throughput JPEG 2000"
    RLE = "RLE"


class FrameSize(NamedTuple):
    """Height and width in pixels, the number of components, and the bits of a sample."""

    rows: int
    columns: int
    samples: int
    bits: int


class Wavelet(NamedTuple):
    """Bits of a sample, whether samples are signed, number of levels, and whether the wavelet is lossless."""

    bits: int
    signed: bool
    levels: int
    reversible: bool


class Segment(NamedTuple):
    marker: int
    payload: bytes
    end: int


def codec_of(data: bytes) -> Codec | None:
    """Find the codec of a frame from its header; None if the header is not known."""
    if data.startswith(_SOI):
        header = _frame_header(data)
        if header is None:
            return None
        if header.marker in _LOSSY:
            return Codec.JPEG
        return {_LOSSLESS: Codec.LOSSLESS_JPEG, _JPEG_LS: Codec.JPEG_LS}.get(header.marker)
    if data.startswith((_SOC_SIZ, _JP2)):
        codestream = bare_jpeg2000(data) or b""
        if not codestream:
            return None
        capabilities = any(segment.marker == _CAP for segment in segments_of(codestream))
        return Codec.HTJ2K if capabilities else Codec.JPEG_2000
    return Codec.RLE if _is_rle(data) else None


def _frame_header(data: bytes) -> Segment | None:
    for segment in segments_of(data) if data.startswith(_SOI) else ():
        if segment.marker in _FRAME_HEADERS and len(segment.payload) >= 6:
            return segment
    return None


def _is_rle(data: bytes) -> bool:
    """Return whether `data` begin with the header of an RLE frame (PS3.5 G.5)."""
    if len(data) < _RLE_HEADER:
        return False
    count, *offsets = struct.unpack_from("<16I", data)
    used = offsets[:count]
    return (
        1 <= count <= _MAX_RLE_SEGMENTS
        and used[0] == _RLE_HEADER
        and all(before < after for before, after in pairwise([*used, len(data) + 1]))
        and not any(offsets[count:])
    )


def jpeg_size(data: bytes) -> FrameSize | None:
    """Read the frame header of a JPEG (any process) or JPEG-LS codestream; None if it has none."""
    header = _frame_header(data)
    if header is None:
        return None
    bits, rows, columns, samples = struct.unpack_from(">BHHB", header.payload)
    return FrameSize(rows, columns, samples, bits)


def jpeg2000_size(data: bytes) -> FrameSize | None:
    """Read the SIZ segment of a bare JPEG 2000 or HTJ2K codestream; None if it has none."""
    if not data.startswith(_SOC_SIZ) or len(data) < 43:
        return None
    columns, rows, left, top = struct.unpack_from(">4I", data, 8)
    (samples,) = struct.unpack_from(">H", data, 40)
    return FrameSize(rows - top, columns - left, samples, (data[42] & 0x7F) + 1)


def jpeg2000_wavelet(data: bytes) -> Wavelet | None:
    """Read the wavelet of a bare codestream with one component.

    Return None unless the codestream is one tile at the origin, with consistent headers up to its end.
    """
    size = jpeg2000_size(data)
    if size is None or size.samples != 1 or any(data[16:24]) or any(data[32:40]) or data[43:45] != b"\x01\x01":
        return None
    tile = struct.unpack_from(">II", data, 24)
    if tile[0] < size.columns or tile[1] < size.rows:
        return None
    style = b""
    for marker, payload, end in segments_of(data):
        if marker == _COC or (marker == _COD and len(payload) < 10):
            return None
        if marker == _COD:
            style = payload
        elif marker == _SOT:
            if not style or not _tile_is_plain(data, end - 12):
                return None
            return Wavelet(size.bits, data[42] > 0x7F, style[5], style[9] == 1)
    return None


def jpeg2000_coding(data: bytes) -> tuple[bytes, Coding] | None:
    """Return the content of the tile-parts of a codestream that `jpeg2000_wavelet` accepts, and its coding parameters.

    Return None if a header changes the order or the meaning of packets.
    """
    size, found, body, start = jpeg2000_size(data), {}, [], 0
    for marker, payload, end in segments_of(data):
        if marker in _ODD or (marker in found and marker in {_COD, _QCD}):
            return None
        if marker == _SOT:
            start = end - 12
            break
        found[marker] = payload
    if size is None or _COD not in found or _QCD not in found:
        return None
    last = data.rfind(_EOC)
    while start < last:
        segments = list(segments_of(data, start))
        if any(segment.marker in {*_ODD, _QCD} for segment in segments):
            return None
        (length,) = struct.unpack_from(">I", segments[0].payload, 2)
        end = start + length if length else last
        body.append(data[segments[-1].end + 2 : end])
        start = end
    return b"".join(body), Coding(found[_COD], found[_QCD], size.bits, size.rows, size.columns)


def with_headroom(data: bytes, bits: int) -> bytes:
    """Declare `bits` more bits a sample in a bare codestream with one component and the reversible wavelet.

    This changes only the range to which a decoder clips values, and the offset that it adds to them.
    """
    return data[:42] + bytes([data[42] + bits]) + data[43:]


def _tile_is_plain(data: bytes, start: int) -> bool:
    """Return whether tile-parts without coding styles of their own follow each other up to the end of `data`."""
    end = data.rfind(_EOC)
    if end < len(data) - 3:
        return False
    for _ in range(_MAX_TILE_PARTS):
        segments = list(segments_of(data, start))
        if not segments or segments[0].marker != _SOT or len(segments[0].payload) != 8:
            return False
        if any(one.marker in (_COD, _COC) for one in segments):
            return False
        (length,) = struct.unpack_from(">I", segments[0].payload, 2)
        if 0 < length < 14:
            return False
        start = start + length if length else end
        if start >= end:
            return start == end
    return False


def bare_jpeg2000(data: bytes) -> bytes | None:
    """Extract the codestream from a JP2 file, which some writers embed; None if none is found.

    The standard does not allow JP2 files here, and OpenJPEG can loop for ever over the boxes of a damaged one.
    """
    start = data.find(_SOC_SIZ, 0, _MAX_BOXES)
    return None if start < 0 else data[start:]


def plain_lossless_jpeg(data: bytes, bits_allocated: int) -> bytes | None:
    """Rebuild a lossless JPEG codestream from its checked tables, frame and scan; None if they are not valid.

    `bits_allocated` is the size of the decoder's output samples; the samples of the frame must need all its bytes.

    GDCM crashes the process if tables or samples do not match their headers, and for some application segments.
    """
    parts = [_SOI]
    tables: set[int] = set()
    components: set[int] = set()
    for marker, payload, end in segments_of(data) if data.startswith(_SOI) else ():
        if marker == _DHT:
            found = _huffman_tables(payload)
            if not found:
                return None
            tables |= found
        elif marker == _LOSSLESS and not components:
            components = _lossless_components(payload, bits_allocated)
        elif marker == _SOS:
            parts.append(_with_header(marker, payload))
            return b"".join([*parts, data[end:]]) if _scan_fits(payload, components, tables) else None
        elif marker in _FRAME_HEADERS:
            return None
        if marker in (_DHT, _LOSSLESS) or (marker == _DRI and len(payload) == 2):
            parts.append(_with_header(marker, payload))
    return None


def segments_of(data: bytes, position: int = 2) -> Iterator[Segment]:
    """Yield consecutive segments from `position` up to the first scan or tile.

    The default position is after the first marker of a JPEG or JPEG 2000 codestream.
    """
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:
            position += 1
        elif marker == _SOD:
            return
        elif marker in _WITHOUT_LENGTH:
            position += 2
        else:
            length = struct.unpack_from(">H", data, position + 2)[0]
            end = position + 2 + length
            if length < 2 or end > len(data):
                return
            yield Segment(marker, data[position + 4 : end], end)
            if marker == _SOS:
                return
            position = end


class CompressedData(NamedTuple):
    """Where the compressed data of a JPEG end, the marker there (None at the end of the file), and restart markers."""

    end: int
    marker: int | None
    restarts: NDArray[np.int64]


def compressed_data(data: bytes, start: int) -> CompressedData:
    """Find the end of compressed data that begin at `start`. Fill bytes before a marker do not count as data."""
    codes = np.frombuffer(data, np.uint8, offset=start)
    places = np.flatnonzero(codes[:-1] == 0xFF)
    after = codes[places + 1]
    is_restart = (after >= 0xD0) & (after <= 0xD7)
    others = np.flatnonzero((after != 0) & (after != 0xFF) & ~is_restart)
    if not len(others):
        return CompressedData(len(data), None, start + places[is_restart])
    first = int(places[others[0]])
    end = start + len(data[start : start + first].rstrip(b"\xff"))
    restarts = places[is_restart]
    return CompressedData(end, int(after[others[0]]), start + restarts[restarts < first])


def is_padding(surplus: bytes) -> bool:
    """Whether data after the last sample are what some encoders write: few bytes, or one value for a while."""
    return len(surplus) <= _FEW_BYTES or (len(surplus) <= _MAX_PADDING and not surplus.strip(surplus[-1:]))


def _with_header(marker: int, payload: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload


def _huffman_tables(payload: bytes) -> set[int]:
    """Return the numbers of the tables in a DHT segment; an empty set if one of them is not valid."""
    numbers: set[int] = set()
    while payload:
        counts, number = payload[1:17], payload[0]
        total, code = sum(counts), 0
        symbols = payload[17 : 17 + total]
        for length, count in enumerate(counts, start=1):
            code = 2 * code + count
            if code > 2**length:
                return set()
        if number > 3 or len(counts) != 16 or not total or len(symbols) != total or max(symbols) > 16:
            return set()
        numbers.add(number)
        payload = payload[17 + total :]
    return numbers


def _lossless_components(payload: bytes, bits_allocated: int) -> set[int]:
    """Return the components of a frame; an empty set if the sample size does not fit or samples are subsampled."""
    if len(payload) < 6 or len(payload) != 6 + 3 * payload[5]:
        return set()
    precision = payload[0]
    fits = 2 <= precision <= 16 and 8 * ((precision + 7) // 8) == bits_allocated
    if not fits or any(sampling != 0x11 for sampling in payload[7::3]):
        return set()
    return set(payload[6::3])


def _scan_fits(payload: bytes, components: set[int], tables: set[int]) -> bool:
    """Return whether a scan uses defined components and tables, and a valid predictor."""
    count = payload[0] if payload else 0
    if not 1 <= count <= len(components) or len(payload) != 4 + 2 * count:
        return False
    chosen, selectors = payload[1 : 1 + 2 * count : 2], payload[2 : 2 + 2 * count : 2]
    predictor, transform = payload[-3], payload[-1]
    return (
        len(set(chosen)) == count
        and components.issuperset(chosen)
        and all(selector & 0x0F == 0 and selector >> 4 in tables for selector in selectors)
        and 1 <= predictor <= 7
        and transform == 0
    )
