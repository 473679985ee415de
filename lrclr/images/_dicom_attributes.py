"""Reads attributes of a DICOM data set. An optional value that is not valid is ignored, with a remark.

A remark is a fixed sentence. It names attributes and never quotes their values, which can be patient data.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

from lrclr.errors import ImageError


class Attributes:
    """Reads attributes of a data set and collects remarks about those that it ignores.

    Args:
        dataset: a `pydicom.Dataset`.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self._remarks: dict[str, None] = {}

    @property
    def remarks(self) -> tuple[str, ...]:
        """Remarks in the order in which they were added, each once."""
        return tuple(self._remarks)

    def remark(self, sentence: str) -> None:
        """Add a remark."""
        self._remarks[sentence] = None

    def ignore(self, keyword: str) -> None:
        """Add the remark that an attribute is ignored."""
        self.remark(f"{keyword} is not valid and is ignored")

    def value(self, keyword: str) -> Any:
        """Return the value of an attribute; None if it is absent, empty or cannot be converted."""
        try:
            value = self.dataset.get(keyword)
        except Exception:  # noqa: BLE001 - pydicom raises nearly anything on a value that is not of its VR
            self.ignore(keyword)
            return None
        blank = isinstance(value, str) and not value.strip(" \0")
        return None if blank or (hasattr(value, "__len__") and len(value) == 0) else value

    def numbers(self, keyword: str) -> tuple[float, ...]:
        """Return the numbers of an attribute; an empty tuple if one of them is not a finite number."""
        value = self.value(keyword)
        if value is None:
            return ()
        several = hasattr(value, "__iter__") and not isinstance(value, (str, bytes))
        try:
            numbers = tuple(float(one) for one in (value if several else (value,)) if not isinstance(one, bytes))
        except (TypeError, ValueError, OverflowError):
            numbers = ()
        if not numbers or not all(math.isfinite(number) for number in numbers):
            self.ignore(keyword)
            return ()
        return numbers

    def number(self, keyword: str) -> float | None:
        """Return the number of an attribute that holds exactly one; None if it is absent or ignored."""
        numbers = self.numbers(keyword)
        if len(numbers) > 1:
            self.ignore(keyword)
        return numbers[0] if len(numbers) == 1 else None

    def integer(self, keyword: str, least: int, most: int) -> int | None:
        """Return an integer from `least` to `most`; None if it is absent or ignored."""
        number = self.number(keyword)
        if number is None:
            return None
        if number != int(number) or not least <= number <= most:
            self.ignore(keyword)
            return None
        return int(number)

    def term(self, keyword: str, terms: Collection[str]) -> str | None:
        """Return one of `terms` in upper case; None if the attribute is absent or ignored."""
        value = self.value(keyword)
        if value is None:
            return None
        term = value.strip(" \0").upper() if isinstance(value, str) else ""
        if term not in terms:
            self.ignore(keyword)
            return None
        return term

    def item(self, keyword: str) -> Any:
        """Return the first item of a sequence; None if it is absent or ignored."""
        from pydicom.sequence import Sequence

        value = self.value(keyword)
        if value is None:
            return None
        if not isinstance(value, Sequence):
            self.ignore(keyword)
            return None
        return value[0]

    def lacks(self, keyword: str) -> bool:
        """Return whether an attribute is absent or empty."""
        from pydicom.datadict import tag_for_keyword

        element = self.dataset.get_item(tag_for_keyword(keyword))
        return element is None or element.value is None or str(element.value).strip(" \0") in {"", "b''", "[]"}

    def required(self, keyword: str, most: int = 2**32) -> int:
        """Return the integer of an attribute that every picture needs.

        Raises:
            ImageError: the value is not one integer from 0 to `most`.
        """
        number = self.integer(keyword, 0, most)
        if number is None:
            raise ImageError(
                "the DICOM file does not say how its pixels are stored", why=f"the value of {keyword} is not valid"
            )
        return number
