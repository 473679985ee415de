"""From what stands in a dataset's cell to the value that it means."""

from __future__ import annotations

import json
import math
from typing import Final

from lrclr.datasets._rows import ABSENT, PRESENT, UNCERTAIN, Box

__all__ = ["BadRowError", "boxes_of", "boxes_of_cell", "frame_of", "label_of", "mask_of", "parse_json"]

_LABELS: Final[dict[object, int | None]] = {
    **dict.fromkeys(("1", "1.0", 1), PRESENT),
    **dict.fromkeys(("0", "0.0", 0), ABSENT),
    **dict.fromkeys(("-1", "-1.0", -1), UNCERTAIN),
    **dict.fromkeys(("", None), None),
}
_BIT: Final = "#bit"
_MAX_FRAME: Final = 2**31


class BadRowError(Exception):
    """A row cannot be used. Its text holds no cell's content: it could be a report or a name."""


def label_of(value: object) -> int | None:
    """`PRESENT`, `ABSENT`, `UNCERTAIN`, or ``None`` for what is not stated (empty, null, NaN).

    Raises:
        BadRowError: it is something else.
    """
    try:
        return _LABELS[value]
    except (KeyError, TypeError):
        pass
    try:
        number = float(value) if isinstance(value, str | int | float) else math.inf
    except (ValueError, OverflowError):
        number = math.inf
    if math.isnan(number):
        return None
    if number not in (PRESENT, ABSENT, UNCERTAIN):
        raise BadRowError("is not 1, 0, -1 or empty")
    return int(number)


def frame_of(value: object) -> int | None:
    """A frame's number; ``None`` where the cell is empty. pandas writes 3 as 3.0 where a column has gaps.

    Raises:
        BadRowError: it is no whole number from 0.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else -1.0
    except (ValueError, OverflowError):
        number = -1.0
    if math.isnan(number):
        return None
    if not 0 <= number < _MAX_FRAME or number != int(number):
        raise BadRowError("frame is not a whole number from 0")
    return int(number)


def boxes_of(value: object) -> dict[str, tuple[Box, ...]]:
    """Boxes per finding, from ``{"Finding": [[left, top, right, bottom], ...]}`` as JSON gives it.

    Raises:
        BadRowError: it is something else, or a box has no area.
    """
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadRowError('boxes is not a JSON object such as {"Edema": [[left, top, right, bottom]]}')
    boxes: dict[str, tuple[Box, ...]] = {}
    for finding, entries in value.items():
        if not isinstance(entries, list):
            raise BadRowError("boxes of a finding are not a list of [left, top, right, bottom]")
        name = finding.strip()
        if not name or name in boxes:
            raise BadRowError("boxes name a finding twice, or one without a name")
        if entries:
            boxes[name] = tuple(_box(entry) for entry in entries)
    return boxes


def boxes_of_cell(cell: str) -> dict[str, tuple[Box, ...]]:
    """`boxes_of` the JSON text in a cell; none for an empty one."""
    if not cell.strip():
        return {}
    try:
        value = parse_json(cell)
    except BadRowError as error:
        raise BadRowError(f"boxes: {error}") from None
    return boxes_of(value)


def mask_of(cell: str) -> tuple[str, int | None]:
    """``path`` or ``path#bit3`` as path and bit number."""
    path, separator, bit = cell.rpartition(_BIT)
    if separator and path and len(bit) == 1 and bit in "01234567":
        return path, int(bit)
    return cell, None


def parse_json(text: str) -> object:
    """A JSON text's value.

    Raises:
        BadRowError: it is no JSON, nests too deeply, names a key twice, or holds half a Unicode character.
    """
    try:
        value: object = json.loads(text, object_pairs_hook=_unique)
    except BadRowError:
        raise
    except RecursionError:
        raise BadRowError("JSON that nests too deeply") from None
    except ValueError:
        # The decoder's own message is harmless, but its exception carries the text.
        raise BadRowError("not JSON") from None
    if "\\u" in text and _has_surrogate(value):
        raise BadRowError("text with half a Unicode character")
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise BadRowError("a key stands twice in one JSON object")
    return result


def _has_surrogate(value: object) -> bool:
    if isinstance(value, str):
        return any("\ud800" <= character <= "\udfff" for character in value)
    if isinstance(value, dict):
        return any(_has_surrogate(part) for item in value.items() for part in item)
    return isinstance(value, list) and any(_has_surrogate(part) for part in value)


def _box(entry: object) -> Box:
    if not isinstance(entry, list) or len(entry) != 4:
        raise BadRowError("a box is not [left, top, right, bottom]")
    sides: list[float] = []
    for side in entry:
        # Whole numbers of any length are JSON; what does not fit a float is no pixel.
        if isinstance(side, bool) or not isinstance(side, int | float) or not -1e9 < side < 1e9:
            raise BadRowError("a box is not made of four numbers")
        sides.append(float(side))
    box = Box(*sides)
    if box.left >= box.right or box.top >= box.bottom:
        raise BadRowError("a box has no area: it is not left < right and top < bottom")
    return box
