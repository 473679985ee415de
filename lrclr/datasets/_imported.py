"""Result of an adapter for a public data set, and helpers of the adapters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from lrclr.datasets._cells import BadRowError, label_of
from lrclr.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from pathlib import Path

    from lrclr.datasets._rows import Row, RowProblem

CHEXPERT_FINDINGS: Final = (
    *("No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema"),
    *("Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture"),
    "Support Devices",
)


class Imported(NamedTuple):
    """Rows of a data set, for :func:`~lrclr.datasets.write_dataset`.

    Attributes:
        rows: rows in the source's order.
        findings: names of the label columns.
        problems: rows that cannot be used. The line is that of the source's table, or the number of the report if the
            source is a folder or an archive.
        notes: further information with counts, such as views that were left out.
    """

    rows: list[Row]
    findings: tuple[str, ...]
    problems: list[RowProblem]
    notes: list[str]


def labels_of(cells: Mapping[str, str], findings: Sequence[str]) -> dict[str, int]:
    """The labels of a table's row.

    Raises:
        BadRowError: a value is not a label.
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


def first_file(candidates: Iterable[Path]) -> Path | None:
    """The first file that exists."""
    for file in candidates:
        try:
            if file.is_file():
                return file
        except (OSError, ValueError):
            continue
    return None


def require_folder(path: Path) -> None:
    """Raise UsageError if a path is not a folder."""
    if not path.is_dir():
        raise UsageError(f"the folder {path} does not exist")


def note_missing_labels(columns: Collection[str]) -> list[str]:
    """A note about findings of CheXpert for which a table has no column."""
    missing = [name for name in CHEXPERT_FINDINGS if name not in columns]
    return [f"the tables have no labels of {', '.join(missing)}"] if missing else []
