"""What to search an archive for: keys and values, each asked for at the level of the DICOM hierarchy that has it."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Self

from lrclr.errors import MissingExtraError, UsageError

# PS3.18, section 10.6.1.2. What is in neither is a key of instances.
_STUDY: Final = frozenset(
    {
        *("StudyDate", "StudyTime", "AccessionNumber", "ModalitiesInStudy", "ReferringPhysicianName"),
        *("StudyDescription", "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID"),
        *("StudyID", "IssuerOfPatientID", "InstanceAvailability"),
    }
)
_SERIES: Final = frozenset(
    {
        *("Modality", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "BodyPartExamined", "Laterality"),
        *("PerformedProcedureStepStartDate", "PerformedProcedureStepStartTime", "ProtocolName", "Manufacturer"),
        *("StationName", "InstitutionName", "InstitutionalDepartmentName", "SeriesDate"),
    }
)
_DATE: Final = re.compile(r"\d{8}(-(\d{8})?)?|-\d{8}")

Parameters = list[tuple[str, str]]


@dataclass(frozen=True)
class Query:
    """Keys with their values; an image matches if for each key it has one of the values.

    Attributes:
        values: by keyword, in the order in which they were given.
    """

    values: dict[str, tuple[str, ...]]

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Self:
        """Read ``KEYWORD=VALUE`` texts. A keyword that is given twice has two values.

        Raises:
            UsageError: a text is something else, or no modality is given. The error quotes no value: it may be a
                patient's.
            MissingExtraError: pydicom is not installed.
        """
        values: dict[str, list[str]] = {}
        for text in texts:
            keyword, equals, value = text.partition("=")
            if not equals or not value.strip():
                raise UsageError("--query needs a keyword and a value", fix="For example: --query Modality=DX")
            _check_keyword(keyword)
            if keyword.endswith("Date") and not _DATE.fullmatch(value):
                raise UsageError(f"the value of {keyword} is not a date", fix="Give 20260131 or 20260101-20260131.")
            if "\\" in value or (keyword == "Modality" and "," in value):
                raise UsageError(
                    f"the value of {keyword} is a list",
                    why="servers read lists in different ways",
                    fix=f"Give --query {keyword}=… once for each value.",
                )
            values.setdefault(keyword, []).append(value)
        if "Modality" not in values:
            raise UsageError(
                "the query names no modality",
                why="the model is for radiographs, and an archive holds much else",
                fix="Add --query Modality=DX, and perhaps --query Modality=CR.",
            )
        return cls({keyword: tuple(dict.fromkeys(each)) for keyword, each in values.items()})

    def studies(self) -> Iterator[Parameters]:
        """Parameters of the searches for studies, one search for each combination of values."""
        at_study = self._at(_STUDY)
        # It is not a key that all servers need, but it spares the look into studies without such a series.
        at_study.setdefault("ModalitiesInStudy", self.values["Modality"])
        yield from _combinations(at_study)

    def series(self) -> Iterator[Parameters]:
        """The same of series in a study."""
        yield from _combinations(self._at(_SERIES))

    def instances(self) -> Iterator[Parameters]:
        """The same of instances in a series."""
        others = {keyword: each for keyword, each in self.values.items() if keyword not in _STUDY | _SERIES}
        yield from _combinations(others)

    def _at(self, level: frozenset[str]) -> dict[str, tuple[str, ...]]:
        return {keyword: each for keyword, each in self.values.items() if keyword in level}


def _combinations(values: dict[str, tuple[str, ...]]) -> Iterator[Parameters]:
    for combination in itertools.product(*values.values()):
        yield list(zip(values, combination, strict=True))


def _check_keyword(keyword: str) -> None:
    try:
        from pydicom.datadict import keyword_dict
    except ImportError:
        raise MissingExtraError("pydicom", "pacs", "searching an archive") from None
    if keyword not in keyword_dict:
        known = difflib.get_close_matches(keyword, keyword_dict, 1)
        fix = f"Did you mean {known[0]}?" if known else "Keywords are in PS3.6, such as Modality and StudyDate."
        raise UsageError(f"{keyword[:40]!r} is not a DICOM keyword", fix=fix)
