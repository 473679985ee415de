"""CheXpert. Run on the real table of training labels that torchxrayvision contains; not run on real images."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Final

from lrclr.datasets._cells import BadRowError
from lrclr.datasets._imported import (
    CHEXPERT_FINDINGS,
    Imported,
    first_file,
    labels_of,
    note_missing_labels,
    require_folder,
)
from lrclr.datasets._lines import table_rows
from lrclr.datasets._rows import Row, RowProblem
from lrclr.errors import UsageError

TABLES: Final = ("train.csv", "valid.csv", "test.csv", "groundtruth.csv", "test_labels.csv")
_SPLITS: Final = {
    "train": "train",
    "valid": "validation",
    "val": "validation",
    "test": "test",
    "groundtruth": "test",
}
_PATIENT: Final = re.compile(r"patient\d+")
_RELEASES: Final = ("", "CheXpert-v1.0", "CheXpert-v1.0-small", "CheXpert")


def import_chexpert(sources: Sequence[Path], *, images: Path | None = None, all_views: bool = False) -> Imported:
    """Rows of CheXpert's tables: one an image, with labels, patient, and the split from the table's name.

    Args:
        sources: ``train.csv``, ``valid.csv``, ``test.csv``, or ``groundtruth.csv``/``test_labels.csv`` with a column
            ``Study``, whose images are in the study's folder; or folders with these tables.
        images: folder ``CheXpert-v1.0[-small]`` or the one above it; by default the folder of the table.
        all_views: include lateral images.

    Raises:
        UsageError: a table cannot be read, is not CheXpert's, or its name gives no split.
    """
    tables = [table for source in sources for table in _tables(source)]
    if images is not None:
        require_folder(images)
    rows: list[Row] = []
    problems: list[RowProblem] = []
    laterals = 0
    columns: dict[str, None] = {}
    for table in tables:
        split = _split(table)
        root = images or table.parent
        for line, cells in table_rows(table, ("Cardiomegaly", "Edema")):
            columns.update(dict.fromkeys(cells))
            try:
                files, lateral = _files(cells, root, all_views=all_views)
                labels = labels_of(cells, CHEXPERT_FINDINGS)
            except BadRowError as error:
                problems.append(RowProblem(line, f"{table.name}: {error}"))
                continue
            laterals += lateral
            for file in files:
                patient = _PATIENT.findall(file.as_posix())
                rows.append(Row(line, file, None, labels, split, patient[-1] if patient else ""))
    notes = [*([f"{laterals} lateral images left out"] if laterals else []), *note_missing_labels(columns)]
    return Imported(rows, CHEXPERT_FINDINGS, problems, notes)


def chexpert_places(name: str, root: Path) -> Iterator[Path]:
    """Possible paths of an image name, with and without the folder of the release.

    Raises:
        BadRowError: the name leads out of the data set.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name:
        raise BadRowError("Path is not a path inside CheXpert")
    inner = PurePosixPath(*path.parts[1:]) if path.parts[0].startswith("CheXpert") else path
    return (root / place for place in (path, *(PurePosixPath(release, inner) for release in _RELEASES)))


def _tables(source: Path) -> list[Path]:
    if not source.is_dir():
        return [source]
    found = [source / name for name in TABLES if (source / name).is_file()]
    if not found:
        raise UsageError(f"{source} has no table of CheXpert", why=f"looked for {', '.join(TABLES)}")
    return found


def _split(table: Path) -> str:
    name = table.name.lower()
    for part in re.split(r"[^a-z]+", name):
        if part in _SPLITS:
            return _SPLITS[part]
    raise UsageError(
        f"the name of {table} gives no split",
        fix="CheXpert's tables are train.csv, valid.csv, test.csv or groundtruth.csv.",
    )


def _files(cells: Mapping[str, str], root: Path, *, all_views: bool) -> tuple[list[Path], int]:
    """The images of a table's row, and the number of lateral images that were left out."""
    if "Path" in cells:
        name = cells["Path"].strip()
        view = cells.get("Frontal/Lateral", "").strip() or ("Lateral" if "lateral" in name.lower() else "Frontal")
        if view != "Frontal" and not all_views:
            return [], 1
        file = first_file(chexpert_places(name, root))
        if file is None:
            raise BadRowError("its image file does not exist")
        return [file], 0
    if "Study" not in cells:
        raise UsageError("the table has neither a column 'Path' nor 'Study', as those of CheXpert do")
    try:
        study = next((place for place in chexpert_places(cells["Study"].strip(), root) if place.is_dir()), None)
        found = sorted(study.glob("view*.jpg")) if study is not None else []
    except OSError:
        found = []
    kept = [file for file in found if all_views or "_frontal" in file.name]
    if not kept:
        raise BadRowError("the study has no image file")
    return kept, len(found) - len(kept)
