"""What an adapter makes of a public data set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from lrclr.datasets._cells import BadRowError, label_of
from lrclr.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from lrclr.datasets._rows import Row, RowProblem

__all__ = ["CHEXPERT_FINDINGS", "Imported", "existing", "labels_of", "require_folder"]

CHEXPERT_FINDINGS: Final = (
    *("No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema"),
    *("Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture"),
    "Support Devices",
)


class Imported(NamedTuple):
    """Rows of a data set, for :func:`~lrclr.datasets.write_dataset`.

    Attributes:
        rows: in the source's order.
        findings: names of the label columns.
        problems: what was left out though it was asked for; the line is that of the source's table, or the number of
            the report where the source is a folder or an archive.
        notes: what else a user should know, with counts: sections that stood in for others, views left out.
    """

    rows: list[Row]
    findings: tuple[str, ...]
    problems: list[RowProblem]
    notes: list[str]


def labels_of(cells: Mapping[str, str], findings: Sequence[str]) -> dict[str, int]:
    """The labels that a table's row states.

    Raises:
        BadRowError: one is none.
    """
    labels: dict[str, int] = {}
    for name in findings:
        try:
            label = label_of(cells.get(name, "").strip())
        except BadRowError as error:
            raise BadRowError(f"column {name!r} {error}") from None
        if label is not None:
            labels[name] = label
    return labels


def existing(candidates: Iterable[Path]) -> Path | None:
    """The first of the files that is there."""
    for file in candidates:
        try:
            if file.is_file():
                return file
        except (OSError, ValueError):
            continue
    return None


def require_folder(path: Path) -> None:
    """Refuse what is no folder.

    Raises:
        UsageError: it is none.
    """
    if not path.is_dir():
        raise UsageError(f"there is no folder {path}")
