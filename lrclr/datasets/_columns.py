"""Which columns of a table are findings, and what an unknown column was probably meant to be."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Final

from lrclr.datasets._imported import CHEXPERT_FINDINGS
from lrclr.errors import UsageError
from lrclr.text import finding_key

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from lrclr.datasets._rows import ImageDataset

__all__ = ["DECLARED", "KNOWN_FINDINGS", "RESERVED", "check_columns", "is_known", "nearest", "unknown_column"]

RESERVED: Final = ("image", "report", "split", "patient", "frame", "mask", "boxes", "findings")
DECLARED: Final = "label:"
# Of CheXpert and MIMIC-CXR, Open-i's among them, and of NIH's ChestX-ray14.
KNOWN_FINDINGS: Final = (
    *CHEXPERT_FINDINGS,
    *("Effusion", "Infiltration", "Mass", "Nodule", "Emphysema", "Fibrosis", "Pleural Thickening", "Hernia"),
)
_KNOWN_KEYS: Final = frozenset(map(finding_key, KNOWN_FINDINGS))
_SIMILAR: Final = 0.8


def is_known(name: str, findings: Collection[str] = ()) -> bool:
    """Whether a column is a finding of the model, whose names are given, or of a public data set."""
    key = finding_key(name)
    return key in _KNOWN_KEYS or any(finding_key(each) == key for each in findings)


def nearest(name: str, known: Collection[str]) -> str | None:
    """The known name that was probably meant: the same but for case, plural or two letters."""
    folded = {each.casefold(): each for each in known}
    key = finding_key(name)
    for each, spelt in folded.items():
        if finding_key(each).rstrip("s").removesuffix("e") == key.rstrip("s").removesuffix("e"):
            return spelt
    near = difflib.get_close_matches(key, folded, n=1, cutoff=_SIMILAR)
    return folded[near[0]] if near else None


def unknown_column(path: Path, name: str, meant: str | None, why: str) -> UsageError:
    """The error for a column that is not known."""
    return UsageError(
        f"{path} has an unknown column {name[:60]!r}{f': did you mean {meant!r}?' if meant else ''}",
        why=why,
        fix=f"Rename it; or write {DECLARED + name[:60]!r} if it is a finding, or take it out.",
    )


def check_columns(dataset: ImageDataset, findings: Collection[str]) -> None:
    """Refuse a table with a column that is neither a finding of the model nor one of a public data set.

    A misspelt finding would leave its labels out without a word.

    Args:
        dataset: the table.
        findings: of the model.

    Raises:
        UsageError: there is such a column.
    """
    for name in dataset.unknown:
        if not is_known(name, findings):
            meant = nearest(name, (*findings, *KNOWN_FINDINGS))
            raise unknown_column(
                dataset.path, name, meant, "it is neither a finding of the model nor one of a public data set"
            )
