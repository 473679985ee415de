"""Names of columns and findings: which are known, and which known one a misspelt name is close to."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Final

from lrclr.datasets._imported import CHEXPERT_FINDINGS
from lrclr.errors import UsageError
from lrclr.text import finding_key

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from lrclr.datasets._rows import ImageDataset, UnknownName

RESERVED: Final = ("image", "report", "split", "patient", "frame", "mask", "boxes", "findings")
DECLARED: Final = "label:"
FINDING_MASK: Final = "mask:"
# Of CheXpert and MIMIC-CXR (Open-i's are among them), and of NIH ChestX-ray14.
KNOWN_FINDINGS: Final = (
    *CHEXPERT_FINDINGS,
    *("Effusion", "Infiltration", "Mass", "Nodule", "Emphysema", "Fibrosis", "Pleural Thickening", "Hernia"),
)
_KNOWN_KEYS: Final = frozenset(map(finding_key, KNOWN_FINDINGS))
_SIMILAR: Final = 0.8
_BOXES: Final = frozenset({"box", "boxes", "bbox", "bboxes"})
_MASKS: Final = frozenset({"mask", "masks", "segmentation", "segmentations"})


def is_known(name: str, findings: Collection[str] = ()) -> bool:
    """Whether a name is a finding of a public data set or one of `findings`."""
    key = finding_key(name)
    return key in _KNOWN_KEYS or any(finding_key(each) == key for each in findings)


def nearest(name: str, known: Collection[str]) -> str | None:
    """The known name that differs only in case, plural or a few letters."""
    folded = {each.casefold(): each for each in known}
    key = finding_key(name)
    for each, spelt in folded.items():
        if finding_key(each).rstrip("s").removesuffix("e") == key.rstrip("s").removesuffix("e"):
            return spelt
    near = difflib.get_close_matches(key, folded, n=1, cutoff=_SIMILAR)
    return folded[near[0]] if near else None


def nearest_finding(name: str, findings: Collection[str]) -> str | None:
    """`nearest`, or the only finding that has all words of the name: "Pleural Effusion" for "Effusion"."""
    words = set(finding_key(name).split())
    longer = [each for each in findings if words <= set(finding_key(each).split())]
    return nearest(name, findings) or (longer[0] if len(longer) == 1 else None)


def similar_column(name: str) -> str | None:
    """The column of a dataset that a name probably means: ``boxes`` for ``box``, ``mask:Edema`` for ``Edema_mask``."""
    words = re.split(r"[\s_:./-]+", name.casefold())
    if _BOXES.intersection(words):
        return "boxes"
    if _MASKS.intersection(words):
        finding = nearest(" ".join(word for word in words if word not in _MASKS), KNOWN_FINDINGS)
        return f"{FINDING_MASK}{finding}" if finding else "mask"
    return nearest(name, RESERVED)


def unknown_name(path: Path, unknown: UnknownName, meant: str | None, why: str) -> UsageError:
    """The error for a column or a finding that is not known.

    Only names of columns are quoted: a name in a cell may be patient data.
    """
    suggestion = f" (did you mean {meant!r}?)" if meant else ""
    if unknown.column is None:
        return UsageError(
            f"line {unknown.line} of {path} names an unknown finding{suggestion}",
            why=why,
            fix=f"Correct it; or write {DECLARED}NAME if it is a finding.",
        )
    declared = f"{DECLARED}{unknown.finding[:60]}"
    return UsageError(
        f"{path} has an unknown column {unknown.column[:60]!r}{suggestion}",
        why=why,
        fix=f"Rename it; or write {declared!r} if it is a finding, or take it out.",
    )


def check_columns(dataset: ImageDataset, findings: Collection[str]) -> None:
    """Refuse a dataset with a finding that is neither the model's nor a public data set's, and is not declared.

    Otherwise the labels, masks or boxes of a misspelt finding would not count.

    Args:
        dataset: the dataset.
        findings: names of the model's findings.

    Raises:
        UsageError: the dataset has such a column or finding.
    """
    for unknown in dataset.unknown:
        if not is_known(unknown.finding, findings):
            meant = nearest(unknown.finding, (*findings, *KNOWN_FINDINGS))
            if meant and unknown.column and unknown.column.startswith(FINDING_MASK):
                meant = f"{FINDING_MASK}{meant}"
            why = "it is neither a finding of the model nor one of a public data set"
            raise unknown_name(dataset.path, unknown, meant, why)
