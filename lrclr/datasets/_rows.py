"""What a manifest of images holds, row by row."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["ABSENT", "PRESENT", "UNCERTAIN", "Box", "DataManifest", "Row", "RowProblem"]

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
        line: where the row stands in the manifest, from 1, the header counted.
        image: the image file.
        report: text for training; ``None`` where there is none.
        labels: finding to `PRESENT`, `ABSENT` or `UNCERTAIN`; what is not stated is left out.
        split: "train", "validation", "test" or any other name; "" where the manifest gives none.
        patient: pseudonym that keeps one patient's images in one split; "" where the manifest gives none.
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
class DataManifest:
    """A manifest that was read.

    Attributes:
        path: the file.
        rows: those that can be used, in order.
        findings: names of the label columns, in order.
        problems: rows that were left out.
        sha256: of the file.
    """

    path: Path
    rows: tuple[Row, ...]
    findings: tuple[str, ...]
    problems: tuple[RowProblem, ...]
    sha256: str

    def split(self, name: str) -> tuple[Row, ...]:
        """The rows of one split."""
        return tuple(row for row in self.rows if row.split == name)
