"""COCO's run lengths as masks, with sizes and counts checked before memory is allocated.

The C decoder of pycocotools writes as many pixels as the counts say, without a check. Tests compare the two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from lrclr.datasets._cells import BadRowError
from lrclr.images import ReadLimits

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MAX_COUNTS: Final = 2**22
_MAX_DIGITS: Final = 7


def decode_rle(value: object) -> NDArray[np.bool_]:
    """The mask of ``{"size": [height, width], "counts": "..."}``; counts may also be a list, COCO's uncompressed form.

    Raises:
        BadRowError: it is not such an object, too large, or its counts do not add up to its size.
    """
    if not isinstance(value, dict):
        raise BadRowError("a mask is not an object with size and counts")
    size, counts = value.get("size"), value.get("counts")
    if not isinstance(size, list) or len(size) != 2 or not all(type(side) is int and side > 0 for side in size):
        raise BadRowError("a mask's size is not [height, width]")
    height, width = size
    if height * width > ReadLimits().max_pixels:
        raise BadRowError(f"a mask has more than {ReadLimits().max_pixels} pixels")
    if not isinstance(counts, str | list) or len(counts) > _MAX_COUNTS:
        raise BadRowError("a mask's counts are neither a text nor a list, or too long")
    runs = _unpacked(counts) if isinstance(counts, str) else counts
    if not all(type(run) is int and 0 <= run <= height * width for run in runs) or sum(runs) != height * width:
        raise BadRowError("a mask's counts do not add up to its size")
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape((height, width), order="F")


def _unpacked(text: str) -> list[int]:
    """COCO's text: five bits a character, lowest first, bit 5 set if more follow, two's complement. From the fourth run
    on, a run is the difference to the run before the last.
    """
    runs: list[int] = []
    number = digits = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64 or digits >= _MAX_DIGITS:
            raise BadRowError("a mask's counts are not run lengths")
        number |= (code & 31) << (5 * digits)
        digits += 1
        if code & 32:
            continue
        if code & 16:
            number -= 1 << (5 * digits)
        runs.append(number + runs[-2] if len(runs) > 2 else number)
        number = digits = 0
    if digits:
        raise BadRowError("a mask's counts end in the middle")
    return runs
