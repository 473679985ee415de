"""Checks that lossless JPEG was decoded in full: the samples need exactly the bits that the compressed data have.

After missing or damaged data, decoders continue with zeros or at a wrong place, and report no error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lrclr.errors import ImageError
from lrclr.images._codestream import compressed_data, is_padding, segments_of

_Samples = NDArray[np.int32]
_HUFFMAN, _RESTARTS = 0xC4, 0xDD
_ROWS: Final = 64  # of a part, whose intermediate arrays fit into the processor's cache
_UNUSED: Final = 255
# The first one, the sample to the left, needs no sums.
_PREDICTED: Final[dict[int, Callable[[_Samples, _Samples, _Samples], _Samples]]] = {
    2: lambda _left, above, _corner: above,
    3: lambda _left, _above, corner: corner,
    4: lambda left, above, corner: left + above - corner,
    5: lambda left, above, corner: left + ((above - corner) >> 1),
    6: lambda left, above, corner: above + ((left - corner) >> 1),
    7: lambda left, above, _corner: (left + above) >> 1,
}


def check_lossless(codestream: bytes, samples: NDArray[Any], bits: int) -> None:
    """Raise ImageError if the samples are not those that a lossless JPEG codestream holds.

    Only codestreams of one component, without restarts and without shifted samples, are checked.

    Args:
        codestream: SOI to EOI, with a frame header of lossless Huffman coding.
        samples: what was decoded, integers ``[H, W]``.
        bits: bits of a sample in the codestream.
    """
    tables: dict[int, NDArray[np.uint8]] = {}
    for marker, payload, end in segments_of(codestream):
        if marker == _RESTARTS and any(payload):
            return
        if marker == _HUFFMAN:
            tables |= _code_lengths(payload)
        scan, start = payload, end
    predictor, shift = scan[-3], scan[-1] & 0x0F
    if scan[0] != 1 or samples.ndim != 2 or shift or not 1 <= predictor <= 7:
        return
    end = compressed_data(codestream, start).end
    available = 8 * (end - start - codestream.count(b"\xff\x00", start, end))
    surplus = available - _bits_of(samples, tables[scan[2] >> 4], predictor, bits)
    if surplus < 0 or not is_padding(codestream[end - surplus // 8 : end]):
        raise ImageError(
            "the lossless JPEG data of the DICOM file are damaged or truncated",
            why="they do not have the length that the decoded picture needs",
            fix="Export the file again.",
        )


def _code_lengths(tables: bytes) -> dict[int, NDArray[np.uint8]]:
    """For each Huffman table by its number, the bits of the code of each category of differences."""
    found = {}
    place = 0
    while place < len(tables):
        counts = tables[place + 1 : place + 17]
        categories = tables[place + 17 : place + 17 + sum(counts)]
        lengths = np.full(17, _UNUSED, np.uint8)
        lengths[list(categories)] = np.repeat(np.arange(1, 17, dtype=np.uint8), list(counts))
        found[tables[place] & 0x0F] = lengths
        place += 17 + len(categories)
    return found


def _bits_of(samples: NDArray[Any], lengths: NDArray[np.uint8], predictor: int, bits: int) -> int:
    """Bits of all samples: for each the code of its difference's category, and as many bits as the category says."""
    # By the difference modulo 2^16. The greatest one, 2^15, is category 16, which has no further bits.
    magnitude = np.abs(np.arange(2**16, dtype=np.int32).astype(np.int16).astype(np.int32))
    category = np.frexp(magnitude.astype(np.float64))[1]
    cost = (lengths[category].astype(np.uint16) + np.where(category == 16, 0, category)).astype(np.uint16)
    total, above, mask = 0, np.empty((0, samples.shape[1]), np.uint16), np.uint16(2**bits - 1)
    for top in range(0, len(samples), _ROWS):
        part = np.concatenate([above, samples[top : top + _ROWS].astype(np.uint16) & mask])
        difference = part.copy()
        difference[:, 1:] -= part[:, :-1]
        difference[1:, 0] -= part[:-1, 0]
        if top == 0:
            difference[:1, :1] -= np.uint16(2 ** (bits - 1))
        if predictor > 1:
            corner, over, left = (each.astype(np.int32) for each in (part[:-1, :-1], part[:-1, 1:], part[1:, :-1]))
            difference[1:, 1:] = part[1:, 1:] - _PREDICTED[predictor](left, over, corner).astype(np.uint16)
        total += int(cost.take(difference[len(above) :]).sum(dtype=np.int64))
        above = part[-1:]
    return total
