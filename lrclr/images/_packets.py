"""Finds how strong the detail is in the levels of a JPEG 2000 wavelet that are not decoded.

The packet headers of a codestream give the number of bits of the greatest coefficient in each block (ISO/IEC 15444-1,
B.9 and B.10). Reading them takes a small fraction of the time of decoding.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SOP, _EPH = b"\xff\x91", b"\xff\x92"
_BYPASS, _TERMINATE_ALL = 0x01, 0x04
_CUSTOM_PRECINCTS = 0x01
_LAYER_FIRST = 0
_UNSET = 1 << 30
# No radiograph has more blocks times layers; with more, this would take longer than decoding.
_MAX_VISITS = 2**17


class Coding(NamedTuple):
    """Payloads of the COD and QCD segments, bits of a sample, and the size of the picture."""

    style: bytes
    quantization: bytes
    bits: int
    rows: int
    columns: int


@dataclass(frozen=True)
class Band:
    """The blocks of one band.

    Attributes:
        level: number of times that the wavelet was applied; 1 is the finest level.
        block: width and height of a block, in coefficients.
        greatest: ``[down, across]``, upper bound of the coefficients in each block, given as the amplitude of a grating
            with such coefficients, in steps of a sample.
    """

    level: int
    block: tuple[int, int]
    greatest: NDArray[np.float64]


@dataclass
class _Tree:
    """A tag tree (B.10.2)."""

    width: int
    height: int
    values: list[int] = field(default_factory=list)
    lows: list[int] = field(default_factory=list)
    shapes: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        width, height, start = self.width, self.height, 0
        while True:
            self.shapes.append((start, width))
            start += width * height
            if width * height <= 1:
                break
            width, height = (width + 1) // 2, (height + 1) // 2
        self.values, self.lows = [_UNSET] * start, [0] * start

    def reaches(self, bits: _Bits, x: int, y: int, threshold: int) -> bool:
        """Read bits until it is known whether the value at a leaf is below `threshold`; return whether it is."""
        low = 0
        place = 0
        for depth in range(len(self.shapes) - 1, -1, -1):
            start, width = self.shapes[depth]
            place = start + (y >> depth) * width + (x >> depth)
            low = max(low, self.lows[place])
            while low < threshold and low < self.values[place]:
                if bits.read(1):
                    self.values[place] = low
                else:
                    low += 1
            self.lows[place] = low
        return self.values[place] < threshold


class _Bits:
    """Reads a packet header bit by bit. After a byte 0xFF, the next byte has only seven bits (B.10.1)."""

    def __init__(self, data: bytes, place: int) -> None:
        self.data, self.place = data, place
        self._byte, self._left = 0, 0

    def read(self, count: int) -> int:
        value = 0
        for _ in range(count):
            if not self._left:
                self._left = 7 if self._byte == 0xFF else 8
                self._byte = self.data[self.place]
                self.place += 1
            self._left -= 1
            value = value << 1 | (self._byte >> self._left & 1)
        return value

    def end(self) -> int:
        """Return the position after the header."""
        return self.place + (self._byte == 0xFF)


class _Blocks:
    """State of the blocks of a band while packet headers are read."""

    def __init__(self, columns: int, rows: int, block: tuple[int, int]) -> None:
        self.size = (columns, rows)
        self.block = block
        self.across, self.down = (-(-side // part) for side, part in zip(self.size, block, strict=True))
        count = self.across * self.down
        self.inclusion, self.missing = _Tree(self.across, self.down), _Tree(self.across, self.down)
        self.planes_missing = [-1] * count
        self.length_bits = [3] * count

    def read(self, bits: _Bits, layer: int) -> int:
        """Read this band's part of a packet header; return the number of its bytes in the packet body."""
        total = 0
        for block in range(self.across * self.down):
            y, x = divmod(block, self.across)
            first = self.planes_missing[block] < 0
            included = self.inclusion.reaches(bits, x, y, layer + 1) if first else bits.read(1)
            if not included:
                continue
            if first:
                missing = 1
                while not self.missing.reaches(bits, x, y, missing):
                    missing += 1
                self.planes_missing[block] = missing - 1
            passes = _passes(bits)
            while bits.read(1):
                self.length_bits[block] += 1
            length = bits.read(self.length_bits[block] + passes.bit_length() - 1)
            total += length
        return total


def bands_of(body: bytes, coding: Coding) -> list[Band] | None:
    """Read the packet headers of a codestream with one tile and one component.

    Args:
        body: content of the tile-parts, without their headers.
        coding: coding parameters of the codestream.

    Returns:
        All bands except the coarsest; None if the codestream uses a feature that this function does not support.

    Raises:
        IndexError, struct.error: the codestream is damaged.
    """
    style = coding.style
    layers, levels = struct.unpack_from(">H", style, 2)[0], style[5]
    if style[0] & _CUSTOM_PRECINCTS or style[8] & (_BYPASS | _TERMINATE_ALL):
        return None
    block = (1 << style[6] + 2, 1 << style[7] + 2)
    resolutions = [_bands(coding, levels, resolution, block) for resolution in range(levels + 1)]
    if layers * sum(band.across * band.down for bands in resolutions for band in bands) > _MAX_VISITS:
        return None
    if style[1] == _LAYER_FIRST:
        packets = [(layer, resolution) for layer in range(layers) for resolution in range(levels + 1)]
    else:
        # With one component and one precinct, all other progression orders are the same.
        packets = [(layer, resolution) for resolution in range(levels + 1) for layer in range(layers)]
    place = 0
    for layer, resolution in packets:
        if body[place : place + 2] == _SOP:
            place += 6
        bits = _Bits(body, place)
        length = sum(band.read(bits, layer) for band in resolutions[resolution]) if bits.read(1) else 0
        place = bits.end()
        if body[place : place + 2] == _EPH:
            place += 2
        place += length
    if place > len(body):
        return None
    return [
        _measured(band, levels - resolution + 1, 1 + (number == 2), coding, 3 * resolution - 2 + number)
        for resolution, bands in enumerate(resolutions)
        if resolution
        for number, band in enumerate(bands)
    ]


def _bands(coding: Coding, levels: int, resolution: int, block: tuple[int, int]) -> list[_Blocks]:
    if resolution == 0:
        return [_Blocks(-(-coding.columns // 2**levels), -(-coding.rows // 2**levels), block)]
    part = 2 ** (levels - resolution + 1)
    half = part // 2
    wide, high = ((-(-side // part), -(-(side - half) // part)) for side in (coding.columns, coding.rows))
    return [_Blocks(wide[x], high[y], block) for x, y in ((1, 0), (0, 1), (1, 1))]


def _passes(bits: _Bits) -> int:
    """Read a number of coding passes (B.10.6)."""
    if not bits.read(1):
        return 1
    if not bits.read(1):
        return 2
    if (few := bits.read(2)) < 3:
        return 3 + few
    if (more := bits.read(5)) < 31:
        return 6 + more
    return 37 + bits.read(7)


def _measured(blocks: _Blocks, level: int, gain: int, coding: Coding, number: int) -> Band:
    guard = coding.quantization[0] >> 5
    exponent, step = _step(coding, level, gain, number)
    missing = np.array(blocks.planes_missing, np.float64).reshape(blocks.down, blocks.across)
    planes = np.where(missing < 0, -np.inf, guard + exponent - 1 - missing)
    return Band(level, blocks.block, 2.0**planes * step / 2**gain)


def _step(coding: Coding, level: int, gain: int, number: int) -> tuple[int, float]:
    """Return the exponent of a band and its quantization step (A.6.4, E.1)."""
    kind, payload = coding.quantization[0] & 0x1F, coding.quantization[1:]
    if kind == 0:
        return payload[number] >> 3, 1.0
    value = struct.unpack_from(">H", payload, 2 * number if kind == 2 else 0)[0]
    exponent, mantissa = value >> 11, value & 0x7FF
    if kind == 1:
        exponent -= coding.style[5] - level
    return exponent, float(2.0 ** (coding.bits + gain - exponent) * (1 + mantissa / 2048))
