"""`read_dataset`: what is known about a set of images, from CSV or JSON lines."""

from __future__ import annotations

import hashlib
import os
import stat
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lrclr.datasets._cells import BadRowError
from lrclr.datasets._lines import check_regular, csv_rows, text_lines
from lrclr.datasets._row_readers import CsvRows, JsonRows
from lrclr.datasets._rows import ImageDataset, Row, RowProblem
from lrclr.errors import LrclrError, UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from lrclr.datasets._row_readers import RowReader

__all__ = ["JSON_SUFFIXES", "SKIP", "check_format", "raise_bad_rows", "read_dataset"]

JSON_SUFFIXES: Final = frozenset({".jsonl", ".ndjson"})
_CHUNK: Final = 2**20
_SHOWN: Final = 3
SKIP: Final = "Correct them, or leave them out with --skip-bad-rows."


def read_dataset(
    path: str | os.PathLike[str],
    *,
    findings: Collection[str] = (),
    strict: bool = False,
    need_report: bool = False,
    check_images: bool = True,
) -> ImageDataset:
    """Read a dataset: ``.csv`` with a header, or ``.jsonl``/``.ndjson`` with one object a line.

    CSV columns, of which only ``image`` must be there:

    - ``image``: the file, relative to the dataset's folder or absolute.
    - ``report``, ``split``, ``patient``; ``frame`` of a file that holds several.
    - ``mask``: an 8-bit image in which bit k belongs to the k-th column of findings.
    - ``mask:FINDING``: an image in which every value above 0 is that finding; ``name.png#bit3`` for one bit of it.
    - ``boxes``: JSON, ``{"Finding": [[left, top, right, bottom], ...]}`` in pixels of the image.
    - ``findings``: names of those that are present, separated by ``;``.
    - a finding's name, or ``label:NAME``: 1 present, 0 absent, -1 uncertain, empty or NaN not stated. Without the
      prefix the name must be one of `findings` or of a public data set; case, ``_`` and ``-`` do not count. Any other
      column is refused if it holds anything but labels or is close to one of the names above; otherwise it is among the
      result's `unknown`, which commands refuse (`check_columns`).

    JSON lines have the same keys, with ``labels`` and ``masks`` as objects by finding and ``findings`` as a list. A key
    that is not known is refused.

    Args:
        path: the dataset.
        findings: names of the model's findings.
        strict: refuse a dataset with a bad row, instead of leaving the row out.
        need_report: whether a row without a report is a bad one.
        check_images: whether the files must be there.

    Returns:
        The good rows and what is wrong with the others. Its findings are the columns, then names that stand only in
        ``findings``, masks or boxes. Paths are absolute, or as absolute as the dataset has them.

    Raises:
        UsageError: it cannot be read, is no dataset, has a column or key that is not known, has no usable row, or has
            one patient in several splits.
        LrclrError: it has a bad row while `strict`.
    """
    path = Path(path)
    check_format(path)
    check_regular(path)
    digest, has_nul = _digest(path)
    # Whoever changes the working folder later still finds the images.
    folder = Path(os.path.abspath(path.parent))  # noqa: PTH100 - resolve() would replace what a link points to
    checks = _Checks(need_report=need_report, check_images=check_images, has_nul=has_nul)
    rows: list[Row] = []
    problems: list[RowProblem] = []
    with text_lines(path) as lines:
        reader: RowReader = (
            JsonRows(path, folder, lines)
            if path.suffix.lower() in JSON_SUFFIXES
            else CsvRows(path, folder, csv_rows(lines, path), findings)
        )
        for line, row in reader.rows():
            problem = str(row) if isinstance(row, BadRowError) else checks.problem(row)
            if problem is not None:
                problems.append(RowProblem(line, problem))
            elif isinstance(row, Row):
                rows.append(row)
    if not rows and not problems:
        raise UsageError(f"{path} has no rows")
    if strict:
        raise_bad_rows(str(path), problems, len(rows))
    if not rows:
        raise UsageError(
            f"{path} has no row that can be used",
            why=f"all {len(problems)} are bad; the first stands in line {problems[0].line}: {problems[0].text}",
        )
    _check_leak(path, rows)
    return ImageDataset(path, tuple(rows), reader.findings, tuple(problems), digest, reader.unknown)


def check_format(path: Path) -> None:
    """Refuse a name that is no dataset's.

    Raises:
        UsageError: the suffix is unknown.
    """
    if path.suffix.lower() not in {".csv", *JSON_SUFFIXES}:
        raise UsageError(f"{path} is of no known format", fix="The name of a dataset ends in .csv, .jsonl or .ndjson.")


def raise_bad_rows(source: str, problems: Sequence[RowProblem], good: int, *, fix: str | None = None) -> None:
    """Refuse a source with bad rows.

    Args:
        source: what it is called.
        problems: its bad rows.
        good: how many others it has.
        fix: what the caller can do beside correcting them.

    Raises:
        LrclrError: there are bad rows; it tells their number, and line and reason of the first ones.
    """
    if problems:
        first = "; ".join(f"line {problem.line}: {problem.text}" for problem in problems[:_SHOWN])
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise LrclrError(
            f"{len(problems)} of {len(problems) + good} rows of {source} are bad", why=f"{first}{more}", fix=fix
        )


class _Checks:
    """What is asked of a row that could be parsed."""

    def __init__(self, *, need_report: bool, check_images: bool, has_nul: bool) -> None:
        self._need_report, self._check_images, self._has_nul = need_report, check_images, has_nul
        self._lines: dict[tuple[str, int | None], int] = {}

    def problem(self, row: Row) -> str | None:
        if self._has_nul and _holds_nul(row):
            return "holds a NUL character"
        if self._need_report and row.report is None:
            return "report is empty"
        key = (os.path.normpath(row.image), row.frame)
        first = self._lines.setdefault(key, row.line)
        if first != row.line:
            return f"image and frame are those of line {first}"
        if self._check_images:
            if not _is_file(row.image):
                return "image: there is no such file"
            for mask in {file for file, _ in row.masks.values()}:
                if not _is_file(mask):
                    return "mask: there is no such file"
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
    """SHA-256 of the file, and whether a NUL is in it: rows are searched only if there is one."""
    digest, has_nul = hashlib.sha256(), False
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                has_nul = has_nul or b"\0" in chunk
    except OSError as error:
        raise UsageError(f"{path} cannot be read", why=error.strerror) from error
    return digest.hexdigest(), has_nul


def _check_leak(path: Path, rows: Iterable[Row]) -> None:
    splits: defaultdict[str, set[str]] = defaultdict(set)
    for row in rows:
        if row.patient and row.split:
            splits[row.patient].add(row.split)
    leaks = [names for names in splits.values() if len(names) > 1]
    if leaks:
        names = sorted(set().union(*leaks))
        raise UsageError(
            f"{path} has {len(leaks)} patient{'s' if len(leaks) > 1 else ''} in more than one split",
            why=f"their images stand in {', '.join(repr(name) for name in names)}",
            fix="Scores would flatter: give all images of a patient the same split.",
        )
