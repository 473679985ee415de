"""`read_dataset`: images with their annotations, from CSV or JSON lines."""

from __future__ import annotations

import hashlib
import os
import stat
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lrclr.datasets._cells import BadRowError, are_numbers
from lrclr.datasets._lines import check_regular, csv_rows, text_lines
from lrclr.datasets._row_readers import CsvRows, JsonRows
from lrclr.datasets._rows import ImageDataset, Row, RowProblem, split_key
from lrclr.errors import LrclrError, UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from lrclr.datasets._row_readers import RowReader

JSON_SUFFIXES: Final = frozenset({".jsonl", ".ndjson"})
_CHUNK: Final = 2**20
_SHOWN: Final = 3
SKIP: Final = "Correct them, or leave them out with --skip-bad-rows."


def read_dataset(
    path: str | os.PathLike[str],
    *,
    findings: Collection[str] = (),
    strict: bool = False,
    check_images: bool = True,
    check_splits: bool = True,
) -> ImageDataset:
    """Read a dataset: ``.csv`` with a header, or ``.jsonl``/``.ndjson`` with one object a line.

    CSV columns, of which only ``image`` is required:

    - ``image``: the file, relative to the dataset's folder or absolute.
    - ``report``, ``split``, ``patient``; ``frame`` of a file that holds several. If all patients look like numbers,
      ``7.0``, which pandas writes, is ``7``.
    - ``mask``: an 8-bit image in which bit k belongs to the k-th column of findings.
    - ``mask:FINDING``: an image in which every value above 0 is that finding; ``name.png#bit3`` for one bit of it.
    - ``boxes``: JSON, ``{"Finding": [[left, top, right, bottom], ...]}`` in pixels of the image.
    - ``findings``: names of the findings that are present, separated by ``;``.
    - a finding's name, or ``label:NAME``: 1 present, 0 absent, -1 uncertain, empty or NaN not stated.

    JSON lines have the same keys, with ``labels`` and ``masks`` as objects by finding and ``findings`` as a list. An
    unknown key is an error.

    A finding, wherever it is named, is one of `findings`, one of a public data set, or is written ``label:NAME`` once.
    Case, ``_`` and ``-`` make no difference. Any other finding is in the result's `unknown`, which commands refuse
    (`check_columns`). An unknown column whose name is similar to one of the names above, or that holds something other
    than labels, is an error here.

    Args:
        path: the dataset.
        findings: names of the model's findings.
        strict: refuse a dataset with a bad row, instead of leaving the row out.
        check_images: whether the image and mask files must exist.
        check_splits: whether to refuse a dataset with one patient in several splits. Rows whose files do not exist
            count, too.

    Returns:
        The good rows, and the reason for each bad one. Its findings are the label columns, then those that only
        ``findings``, masks or boxes name. Paths are absolute.

    Raises:
        UsageError: the file cannot be read, is not a dataset, has an unknown column or key, has no usable row, or has
            one patient in several splits while `check_splits`.
        LrclrError: it has a bad row while `strict`.
    """
    path = Path(path)
    check_format(path)
    check_regular(path)
    digest, has_nul = _digest(path)
    # Absolute, so that images are found after the working folder was changed.
    folder = Path(os.path.abspath(path.parent))  # noqa: PTH100 - resolve() would replace what a link points to
    checks = _Checks(check_images=check_images, has_nul=has_nul)
    rows: list[Row] = []
    problems: list[RowProblem] = []
    patients: dict[int, tuple[str, str]] = {}
    with text_lines(path) as lines:
        reader: RowReader = (
            JsonRows(path, folder, lines, findings)
            if path.suffix.lower() in JSON_SUFFIXES
            else CsvRows(path, folder, csv_rows(lines, path), findings)
        )
        for line, row in reader.rows():
            if isinstance(row, BadRowError):
                problems.append(RowProblem(line, str(row), row.split))
                continue
            if row.patient:
                patients[row.line] = row.patient, row.split
            if problem := checks.problem(row):
                problems.append(RowProblem(line, problem, row.split))
            else:
                rows.append(row)
    if not rows and not problems:
        raise UsageError(f"{path} has no rows")
    if strict:
        raise_bad_rows(str(path), problems, len(rows))
    if not rows:
        raise UsageError(
            f"{path} has no row that can be used",
            why=f"all {len(problems)} are bad; the first is line {problems[0].line}: {problems[0].text}",
        )
    if are_numbers(patient for patient, _ in patients.values()):
        patients = {line: (patient.removesuffix(".0"), split) for line, (patient, split) in patients.items()}
        rows = [replace(row, patient=patients[row.line][0]) if row.patient.endswith(".0") else row for row in rows]
    if check_splits:
        _check_leak(path, patients)
    names = reader.names
    return ImageDataset(path, tuple(rows), names.spellings, tuple(problems), digest, names.unknown, names.listed)


def check_format(path: Path) -> None:
    """Raise UsageError if the suffix of a file is not that of a dataset."""
    if path.suffix.lower() not in {".csv", *JSON_SUFFIXES}:
        raise UsageError(f"{path} has an unknown format", fix="The name of a dataset ends in .csv, .jsonl or .ndjson.")


def raise_bad_rows(source: str, problems: Sequence[RowProblem], good: int, *, fix: str | None = None) -> None:
    """Raise an error if there are bad rows.

    Args:
        source: name of the dataset, for the error.
        problems: its bad rows.
        good: number of its other rows.
        fix: what the user can do beside correcting them.

    Raises:
        LrclrError: there are bad rows. It gives their number, and line and reason of the first ones.
    """
    if problems:
        first = "; ".join(f"line {problem.line}: {problem.text.rstrip('.')}" for problem in problems[:_SHOWN])
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise LrclrError(
            f"{len(problems)} of {len(problems) + good} rows of {source} are bad", why=f"{first}{more}", fix=fix
        )


class _Checks:
    """Checks of a parsed row."""

    def __init__(self, *, check_images: bool, has_nul: bool) -> None:
        self._check_images, self._has_nul = check_images, has_nul
        self._lines: dict[tuple[str, int | None], int] = {}

    def problem(self, row: Row) -> str | None:
        if self._has_nul and _holds_nul(row):
            return "holds a NUL character"
        key = (os.path.normpath(row.image), row.frame)
        first = self._lines.setdefault(key, row.line)
        if first != row.line:
            return f"image and frame are those of line {first}"
        if self._check_images:
            masks = {file for file, _ in row.masks.values()}
            for what, file in (("image", row.image), *(("mask", mask) for mask in masks)):
                if not _is_file(file):
                    backslash = "; folders are separated by / here, not by \\" if "\\" in file.name else ""
                    return f"{what}: the file does not exist{backslash}"
        return None


def _holds_nul(row: Row) -> bool:
    texts: Iterable[str] = (str(row.image), row.report or "", row.split, row.patient)
    masks = (str(file) for file, _ in row.masks.values())
    return any("\0" in text for text in (*texts, *masks, *row.labels, *row.boxes))


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def _digest(path: Path) -> tuple[str, bool]:
    """SHA-256 of the file, and whether it holds a NUL character: only then are rows searched for one."""
    digest, has_nul = hashlib.sha256(), False
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                has_nul = has_nul or b"\0" in chunk
    except OSError as error:
        raise UsageError(f"{path} cannot be read", why=error.strerror) from error
    return digest.hexdigest(), has_nul


def _check_leak(path: Path, patients: Mapping[int, tuple[str, str]]) -> None:
    """Raise UsageError if a patient is in several splits.

    Args:
        path: the dataset.
        patients: patient and split by line.
    """
    found: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for line, (patient, split) in patients.items():
        if split:
            found[patient].setdefault(split_key(split), line)
    leaks = [splits for splits in found.values() if len(splits) > 1]
    if leaks:
        # Without the names of the splits: a column of another kind may be called "split".
        one = len(leaks) == 1
        lines = " and ".join(str(line) for line in list(leaks[0].values())[:2])
        raise UsageError(
            f"{path} has {len(leaks)} patient{'' if one else 's'} in more than one split",
            why=f"{'the' if one else 'the first'} patient is in lines {lines}, and scores would be too high",
            fix="Give all images of a patient the same split.",
        )
