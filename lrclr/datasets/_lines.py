"""Untrusted text files, line by line and within limits, and CSV rows with the line on which each begins."""

from __future__ import annotations

import contextlib
import csv
import gzip
import stat
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Final

from lrclr.errors import UsageError

# A report has a few thousand characters.
MAX_LINE: Final = 2**22


def check_regular(path: Path) -> None:
    """Raise UsageError if a path is not a regular file: a pipe or a device may be endless."""
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise UsageError(f"{path} cannot be read", why=reason or "it is not a file name") from error
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(f"{path} cannot be read", why="it is not a file")


@contextlib.contextmanager
def text_lines(path: Path) -> Iterator[Iterator[str]]:
    """The lines of a UTF-8 file with their ends, without a byte order mark; ``.gz`` is decompressed.

    Raises:
        UsageError: the file cannot be read, is damaged or not UTF-8, or has a line of more than `MAX_LINE` characters.
    """
    check_regular(path)
    try:
        with contextlib.ExitStack() as stack:
            opener = gzip.open if path.suffix.lower() == ".gz" else open
            # newline="": a cell of a CSV file may hold line ends of any kind, which are kept.
            yield _bounded(stack.enter_context(opener(path, "rt", encoding="utf-8-sig", newline="")), path)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UsageError(f"{path} cannot be read", why="it is damaged or not a gzip file") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read", why=error.strerror) from error


def _bounded(stream: IO[str], path: Path) -> Iterator[str]:
    number = 0
    while True:
        try:
            line = stream.readline(MAX_LINE)
        except UnicodeDecodeError as error:
            raise UsageError(
                f"{path} is not UTF-8",
                why=f"the first byte that is not valid is after line {number}",
                fix="Save it as UTF-8; in a spreadsheet program as CSV UTF-8.",
            ) from error
        if not line:
            return
        number += 1
        if len(line) == MAX_LINE:
            raise UsageError(f"{path} is not a table", why=f"line {number} is longer than {MAX_LINE - 1} characters")
        yield line


def csv_rows(lines: Iterator[str], path: Path) -> Iterator[tuple[int, list[str]]]:
    """``(line, cells)`` of each row that is not blank. Lines count from 1; a row has the line on which it begins.

    Raises:
        UsageError: quotes do not pair or a cell is too long, so that the ends of rows are unknown.
    """
    reader = csv.reader(lines, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise UsageError(
                f"{path} cannot be read from line {line} on",
                why=str(error),
                fix="Look for a quote that is not closed, or not doubled.",
            ) from error
        if cells:
            yield line, cells


def table_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """``(line, {column: cell})`` of a published table, ``.csv`` or ``.csv.gz``; short rows have empty cells.

    Raises:
        UsageError: the file cannot be read, one of `columns` is missing, or a row has more cells than the header.
    """
    with text_lines(path) as lines:
        rows = csv_rows(lines, path)
        header = [name.strip() for name in next(rows, (0, []))[1]]
        missing = [name for name in columns if name not in header]
        if missing:
            raise UsageError(f"{path} is not the expected table", why=f"it has no column {missing[0]!r}")
        for line, cells in rows:
            if any(cells[len(header) :]):
                raise UsageError(f"line {line} of {path} has {len(cells)} cells, and the header {len(header)}")
            padded = [*cells, *[""] * (len(header) - len(cells))]
            yield line, dict(zip(header, padded, strict=False))
