"""What a dataset of images holds, row by row."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from lrclr.errors import LrclrError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["ABSENT", "PRESENT", "UNCERTAIN", "Box", "ImageDataset", "Row", "RowProblem", "without_name"]

PRESENT: Final = 1
ABSENT: Final = 0
UNCERTAIN: Final = -1


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in pixels of the original image; pixel i covers [i, i + 1)."""

    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True, slots=True)
class Row:
    """One image and what is known about it.

    Attributes:
        line: where the row stands in the dataset, from 1, the header counted.
        image: the image file.
        report: text for training; ``None`` where there is none.
        labels: finding to `PRESENT`, `ABSENT` or `UNCERTAIN`; what is not stated is left out.
        split: "train", "validation", "test" or any other name; "" where the dataset gives none.
        patient: pseudonym that keeps one patient's images in one split; "" where the dataset gives none.
        frame: of a file that holds several.
        masks: finding to where its mask is: a grey image of the original's shape in which every value above 0 is
            the finding; or, with a bit number, an 8-bit image in which that bit is.
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
    """Why a row was left out. ``text`` names columns and reasons, and no patient data."""

    line: int
    text: str


@dataclass(frozen=True, slots=True)
class ImageDataset:
    """A dataset that was read.

    Attributes:
        path: the file.
        rows: those that can be used, in order.
        findings: names of the label columns, in order.
        problems: rows that were left out.
        sha256: of the file.
        unknown: label columns whose names are neither declared nor those of a public data set; see `check_columns`.
    """

    path: Path
    rows: tuple[Row, ...]
    findings: tuple[str, ...]
    problems: tuple[RowProblem, ...]
    sha256: str
    unknown: tuple[str, ...] = ()

    def split(self, name: str) -> tuple[Row, ...]:
        """The rows of one split."""
        return tuple(row for row in self.rows if row.split == name)


def without_name(error: LrclrError, image: Path) -> str:
    """The text of an error about an image, without the name of its file, which may be a patient's.

    Errors quote the whole path. Parts of it are not looked for: a file called ``e.png`` would take the letters out of
    other words.
    """
    quoted = repr(os.fspath(image))
    what, why, fix = (text and text.replace(quoted, "the image") for text in (error.what, error.why, error.fix))
    return str(LrclrError(what or "", why=why, fix=fix))
