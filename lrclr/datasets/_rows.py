"""Rows of a dataset: an image with its report, labels, masks and boxes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, NamedTuple

from lrclr.errors import LrclrError, UsageError

PRESENT: Final = 1
ABSENT: Final = 0
UNCERTAIN: Final = -1
USUAL_SPLITS: Final = ("train", "validation", "test")
_FEW: Final = 5
_SPLITS: Final = {"valid": "validation", "val": "validation"}


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in pixels of the original image. Pixel i covers [i, i + 1)."""

    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True, slots=True)
class Row:
    """One image and its annotations.

    Attributes:
        line: line of the row in the dataset file. The first line is 1 and is the header of a CSV file.
        image: the image file.
        report: text for training, or ``None``.
        labels: finding to `PRESENT`, `ABSENT` or `UNCERTAIN`. Findings without a label are left out.
        split: "train", "validation", "test" or any other name; "" if the dataset gives none. See `split_key`.
        patient: pseudonym of the patient; "" if the dataset gives none.
        frame: frame number in a file that holds several frames.
        masks: finding to its mask file and a bit number. Without a bit number the mask is a grey image of the original
            shape, and pixels above 0 belong to the finding. With one, pixels of an 8-bit image in which the bit is set.
        boxes: finding to its rectangles.
    """

    line: int
    image: Path
    report: str | None = None
    labels: Mapping[str, int] = field(default_factory=dict)
    split: str = ""
    patient: str = ""
    frame: int | None = None
    masks: Mapping[str, tuple[Path, int | None]] = field(default_factory=dict)
    boxes: Mapping[str, tuple[Box, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RowProblem:
    """Why a row was left out.

    Attributes:
        line: its line.
        text: columns and reasons; no patient data.
        split: its split; None if it is not known.
    """

    line: int
    text: str
    split: str | None = None


class UnknownName(NamedTuple):
    """A finding that is neither declared with ``label:`` nor known.

    Attributes:
        finding: its name. From a cell or a JSON key it may be anything, a report included: do not print it.
        line: line of its first occurrence.
        column: name of the column, if it is one.
    """

    finding: str
    line: int
    column: str | None


@dataclass(frozen=True, slots=True)
class ImageDataset:
    """A dataset that was read.

    Attributes:
        path: the file.
        rows: the rows that can be used, in order.
        findings: names of the findings, in order. One finding has one spelling in all rows.
        problems: rows that were left out.
        sha256: hash of the file.
        unknown: findings that are neither declared nor known; see `check_columns`.
        listed: whether a row names its findings in ``findings``: those that it does not name are not stated.
    """

    path: Path
    rows: tuple[Row, ...]
    findings: tuple[str, ...]
    problems: tuple[RowProblem, ...]
    sha256: str
    unknown: tuple[UnknownName, ...] = ()
    listed: bool = False

    @property
    def splits(self) -> dict[str, str]:
        """The splits of all rows, those that were left out included: `split_key` to the first spelling, in order."""
        found: dict[str, str] = {}
        for split in (*(row.split for row in self.rows), *(problem.split for problem in self.problems)):
            if split is not None:
                found.setdefault(split_key(split), split)
        return found

    def only(self, *names: str) -> ImageDataset:
        """The dataset with the rows of these splits; names are compared by `split_key`.

        Of the rows that were left out, those whose split is not known stay.
        """
        keys = {split_key(name) for name in names}
        return replace(
            self,
            rows=tuple(row for row in self.rows if split_key(row.split) in keys),
            problems=tuple(each for each in self.problems if each.split is None or split_key(each.split) in keys),
        )

    def only_or_all(self, name: str, *, fix: str) -> ImageDataset:
        """The dataset with the rows of one split, or the whole dataset if its rows have no split or all the same.

        Raises:
            UsageError: its rows are of several splits, and none of them is this one.
        """
        if split_key(name) in self.splits:
            return self.only(name)
        if len(self.splits) > 1:
            raise self.no_split(name, fix=fix)
        return self

    def no_split(self, name: str, *, fix: str) -> UsageError:
        """The error that no row is of a split; `fix` is what the user can do."""
        there = [each for each in self.splits.values() if each]
        return UsageError(f"{self.path} has no split {name!r}", why=f"it has {_named(there) or 'none'}", fix=fix)

    def unused(self, *used: str) -> str:
        """Which rows are neither of these splits nor of one of the usual names; "" if there are none."""
        keys = {split_key(name) for name in (*used, *USUAL_SPLITS)}
        counts = Counter(row.split for row in self.rows if split_key(row.split) not in keys)
        return _named([f"{count} of {repr(name) if name else 'no split'}" for name, count in counts.items()])


def _named(splits: Sequence[str]) -> str:
    """Few names, or the number of many: those may be patient data, since the column may be a wrong one."""
    return ", ".join(splits) if len(splits) <= _FEW else f"{len(splits)} different ones"


def split_key(name: str) -> str:
    """The form in which names of splits are compared: ``Test`` is "test", ``val`` and ``Valid`` are "validation"."""
    folded = name.strip().casefold()
    return _SPLITS.get(folded, folded)


def without_name(error: LrclrError, image: Path) -> str:
    """The text of an error about an image, without the name of its file, which may identify a patient.

    Only the whole path is replaced, as errors quote it: replacing its parts would damage other words if a file is
    called ``e.png``.
    """
    quoted = repr(os.fspath(image))
    what, why, fix = (text and text.replace(quoted, "the image") for text in (error.what, error.why, error.fix))
    return str(LrclrError(what or "", why=why, fix=fix))
