"""MIMIC-CXR and MIMIC-CXR-JPG as published. Written from their documentation; not run on a real copy."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from lrclr.datasets._cells import BadRowError
from lrclr.datasets._imported import CHEXPERT_FINDINGS, Imported, first_file, labels_of, require_folder
from lrclr.datasets._lines import table_rows
from lrclr.datasets._reports import choose_section, mimic_sections
from lrclr.datasets._rows import Row, RowProblem
from lrclr.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lrclr.datasets._reports import Section, SectionText

_TABLES: Final = "mimic-cxr-2.0.0-{}.csv"
_SPLITS: Final = {"validate": "validation"}
_FRONTAL: Final = frozenset({"PA", "AP"})
_SUFFIXES: Final = (".jpg", ".dcm", ".png")
_MAX_REPORT: Final = 2**20
_PATH: Final = re.compile(r"p(\d{8})/s(\d{8})$")


class _Image(NamedTuple):
    line: int
    subject: str
    study: str
    name: str


def import_mimic_cxr(
    source: Path,
    *,
    images: Path | None = None,
    splits: Path | None = None,
    labels: Path | None = None,
    metadata: Path | None = None,
    section: Section = "impression",
    all_views: bool = False,
) -> Imported:
    """Rows of a MIMIC-CXR folder: one an image, with its study's report, labels and split.

    Args:
        source: folder with ``files/p10/p10000032/s50414267.txt`` (or the folder ``files`` itself).
        images: the same tree with ``s50414267/<dicom id>.jpg`` or ``.dcm``, if it is another one.
        splits, labels, metadata: ``mimic-cxr-2.0.0-{split,chexpert,metadata}.csv[.gz]``; by default those in the two
            folders. Without them the rows have no splits or labels.
        section: part of the report; if it is missing, another part is taken, and the notes count that.
        all_views: include lateral images; otherwise only PA and AP, for which the metadata are needed.

    Raises:
        UsageError: a folder or a table is missing or not the expected one, or the views are not known.
    """
    roots = [source] if images is None else [images, source]
    for root in roots:
        require_folder(root)
    split_table = splits or _table(roots, "split")
    view_table = metadata or _table(roots, "metadata")
    label_table = labels or _table(roots, "chexpert")
    if view_table is None and not all_views:
        raise UsageError(
            f"the views of the images in {roots[0]} are not known",
            why=f"{_TABLES.format('metadata')}[.gz] is missing",
            fix="Name it with --metadata, or take every view with --all-views.",
        )
    notes: list[str] = []
    split_of = _splits(split_table) if split_table else {}
    study_labels, bad_labels = _labels(label_table) if label_table else ({}, {})
    if view_table is not None:
        wanted, left_out = _of_views(view_table, all_views=all_views)
        notes += [f"{left_out} images of other views than PA and AP left out"] if left_out else []
    else:
        wanted = list(_walked(_files(roots[0])))
    report_of = _reports(_files(source), section)
    rows: list[Row] = []
    problems: list[RowProblem] = []
    sections: Counter[str] = Counter()
    unlabelled = unassigned = 0
    for image in wanted:
        folder = Path(f"p{image.subject[:2]}", f"p{image.subject}", f"s{image.study}")
        stem = _files(roots[0]) / folder / image.name
        file = first_file(stem.with_name(image.name + suffix) for suffix in _SUFFIXES)
        if file is None:
            problems.append(RowProblem(image.line, "its image file does not exist"))
            continue
        if image.study in bad_labels:
            problems.append(RowProblem(image.line, f"its study's labels: {bad_labels[image.study]}"))
            continue
        report = report_of(folder)
        sections[report.section if report else "none"] += 1
        split = split_of.get(image.name, "")
        stated = study_labels.get(image.study, {})
        unlabelled += bool(label_table) and not stated
        unassigned += bool(split_table) and not split
        rows.append(Row(image.line, file, report.text if report else None, stated, split, image.subject))
    notes += [f"report from {name}: {count} images" for name, count in sections.most_common()]
    notes += [f"{unlabelled} images have no label in the table of labels"] if unlabelled else []
    notes += [f"{unassigned} images are not in the table of splits"] if unassigned else []
    return Imported(rows, CHEXPERT_FINDINGS if label_table else (), problems, notes)


def _files(root: Path) -> Path:
    return root / "files" if (root / "files").is_dir() else root


def _table(roots: list[Path], name: str) -> Path | None:
    plain = _TABLES.format(name)
    return first_file(place / f"{plain}{end}" for root in roots for place in (root, root.parent) for end in (".gz", ""))


def _splits(table: Path) -> dict[str, str]:
    return {
        cells["dicom_id"]: _SPLITS.get(cells["split"], cells["split"])
        for _, cells in table_rows(table, ("dicom_id", "split"))
    }


def _labels(table: Path) -> tuple[dict[str, dict[str, int]], dict[str, str]]:
    labels: dict[str, dict[str, int]] = {}
    bad: dict[str, str] = {}
    for _, cells in table_rows(table, ("subject_id", "study_id", *CHEXPERT_FINDINGS)):
        try:
            labels[cells["study_id"]] = labels_of(cells, CHEXPERT_FINDINGS)
        except BadRowError as error:
            bad[cells["study_id"]] = str(error)
    return labels, bad


def _of_views(table: Path, *, all_views: bool) -> tuple[list[_Image], int]:
    wanted: list[_Image] = []
    left_out = 0
    for line, cells in table_rows(table, ("dicom_id", "subject_id", "study_id", "ViewPosition")):
        if all_views or cells["ViewPosition"].strip().upper() in _FRONTAL:
            wanted.append(_Image(line, cells["subject_id"], cells["study_id"], cells["dicom_id"]))
        else:
            left_out += 1
    # The identifiers become parts of paths.
    if not all(f"{image.subject}{image.study}".isdigit() and Path(image.name).name == image.name for image in wanted):
        raise UsageError(f"{table} is not the expected table", why="its identifiers are not numbers")
    return wanted, left_out


def _walked(files: Path) -> Iterator[_Image]:
    number = 0
    for folder, folders, names in os.walk(files):
        folders.sort()
        place = _PATH.search(Path(folder).as_posix())
        for name in sorted(names) if place else ():
            if Path(name).suffix.lower() in _SUFFIXES and place:
                number += 1
                yield _Image(number, place[1], place[2], Path(name).stem)


def _reports(files: Path, section: Section) -> Callable[[Path], SectionText | None]:
    """A function that reads the report of a study, once for all its images."""
    known: dict[Path, SectionText | None] = {}

    def read(study: Path) -> SectionText | None:
        if study not in known:
            known[study] = _read_report(files / study.with_suffix(".txt"), section)
        return known[study]

    return read


def _read_report(file: Path, section: Section) -> SectionText | None:
    try:
        if not file.is_file() or file.stat().st_size > _MAX_REPORT:
            return None
        text = file.read_text("utf-8", errors="replace").replace("\0", " ")
    except OSError:
        return None
    return choose_section(mimic_sections(text), section)
