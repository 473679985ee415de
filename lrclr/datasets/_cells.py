"""Parsing of single cells of a dataset: labels, frames, boxes, masks, JSON."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Final

from lrclr.datasets._rows import ABSENT, PRESENT, UNCERTAIN, Box

_LABELS: Final[dict[object, int | None]] = {
    **dict.fromkeys(("1", "1.0", 1), PRESENT),
    **dict.fromkeys(("0", "0.0", 0), ABSENT),
    **dict.fromkeys(("-1", "-1.0", -1), UNCERTAIN),
    **dict.fromkeys(("", None), None),
}
_BIT: Final = "#bit"
_MAX_FRAME: Final = 2**31
_ROUNDED: Final = re.compile(r"\d(?:[.,]\d+)?[eE]\+\d+")
_NUMBER: Final = re.compile(r"\d+(?:\.\d+)?")


class BadRowError(Exception):
    """A row cannot be used. The text does not hold the content of a cell: that may be patient data.

    Attributes:
        split: the row's split; ``None`` if it is not known.
    """

    split: str | None = None


class BadPatientError(BadRowError):
    """The patient of a row cannot be used."""


def label_of(value: object) -> int | None:
    """`PRESENT`, `ABSENT`, `UNCERTAIN`, or ``None`` if it is not stated (empty, null, NaN).

    Raises:
        BadRowError: it is something else.
    """
    try:
        return _LABELS[value]
    except (KeyError, TypeError):
        pass
    number = _number(value)
    if math.isnan(number):
        return None
    if number not in (PRESENT, ABSENT, UNCERTAIN):
        raise BadRowError("is not 1, 0, -1 or empty")
    return int(number)


def frame_of(value: object) -> int | None:
    """A frame number, or ``None`` if the cell is empty. pandas writes 3 as 3.0 if the column has gaps.

    Raises:
        BadRowError: it is not a whole number from 0.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    number = -1.0 if isinstance(value, bool) else _number(value)
    if math.isnan(number):
        return None
    if not 0 <= number < _MAX_FRAME or number != int(number):
        raise BadRowError("frame is not a whole number from 0")
    return int(number)


def _number(value: object) -> float:
    try:
        return float(value) if isinstance(value, str | int | float) else math.inf
    except (ValueError, OverflowError):
        return math.inf


def patient_of(text: str) -> str:
    """A patient's pseudonym.

    Raises:
        BadPatientError: a spreadsheet has rounded it (``1.23E+11``), so that several patients may share it.
    """
    if _ROUNDED.fullmatch(text):
        raise BadPatientError("patient is a number that a spreadsheet has rounded; format its column as text")
    return text


def are_numbers(patients: Iterable[str]) -> bool:
    """Whether all pseudonyms look like numbers. pandas writes 7 as 7.0 if the column has gaps."""
    return all(map(_NUMBER.fullmatch, patients))


def boxes_of(value: object) -> dict[str, tuple[Box, ...]]:
    """Boxes by finding, from ``{"Finding": [[left, top, right, bottom], ...]}`` or its JSON text.

    Raises:
        BadRowError: it is something else, or a box has no area or lies in the image's first pixel.
    """
    if isinstance(value, str):
        try:
            value = parse_json(value) if value.strip() else None
        except BadRowError as error:
            raise BadRowError(f"boxes: {error}") from None
    if not value:
        return {}
    if not isinstance(value, dict):
        raise BadRowError('boxes is not a JSON object such as {"Edema": [[left, top, right, bottom]]}')
    if not all(isinstance(entries, list) for entries in value.values()):
        raise BadRowError("boxes of a finding are not a list of [left, top, right, bottom]")
    return {finding: tuple(_box(entry) for entry in entries) for finding, entries in value.items() if entries}


def contradiction(labels: Mapping[str, int], boxes: Mapping[str, object]) -> str | None:
    """The finding of which a row has boxes, or a mask that is not empty, and the label 0."""
    return next((name for name in boxes if labels.get(name) == ABSENT), None)


def mask_of(cell: str) -> tuple[str, int | None]:
    """``path`` or ``path#bit3`` as path and bit number."""
    path, separator, bit = cell.rpartition(_BIT)
    if separator and path and len(bit) == 1 and bit in "01234567":
        return path, int(bit)
    return cell, None


def parse_json(text: str) -> object:
    """The value of a JSON text.

    Raises:
        BadRowError: it is not JSON, nests too deeply, repeats a key, or holds an unpaired surrogate.
    """
    try:
        value: object = json.loads(text, object_pairs_hook=_unique)
    except BadRowError:
        raise
    except RecursionError:
        raise BadRowError("JSON that nests too deeply") from None
    except ValueError:
        # The exception of the decoder carries the text.
        raise BadRowError("not JSON") from None
    if "\\u" in text and _has_surrogate(value):
        raise BadRowError("text with half a Unicode character")
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise BadRowError("a JSON object repeats a key")
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
    # JSON integers have any length: compare before converting to float.
    if not all(type(side) in (int, float) and -1e9 < side < 1e9 for side in entry):
        raise BadRowError("a box is not made of four numbers")
    box = Box(*map(float, entry))
    if box.left >= box.right or box.top >= box.bottom:
        raise BadRowError(
            "a box has no area: it is not left < right and top < bottom. Boxes are [left, top, right, bottom], not "
            "[left, top, width, height]"
        )
    if min(entry) >= 0 and max(entry) <= 1:
        raise BadRowError("a box lies within one pixel: boxes are in pixels, not in shares of the image")
    return box
