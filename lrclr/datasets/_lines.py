"""Text files that somebody else wrote, line by line and within limits; and CSV with the line where each row begins."""

from __future__ import annotations

import contextlib
import csv
import gzip
import stat
import zlib
from typing import IO, TYPE_CHECKING, Final

from lrclr.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = ["MAX_LINE", "check_regular", "csv_rows", "table_rows", "text_lines"]

# A report is a few thousand characters; a line of more than this is no row of anything.
MAX_LINE: Final = 2**22


def check_regular(path: Path) -> None:
    """Refuse what is no regular file: a pipe or a device could go on for ever.

    Raises:
        UsageError: there is no such file, or it is something else.
    """
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise UsageError(f"{path} cannot be read", why=reason or "that is no file name") from error
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(f"{path} cannot be read", why="it is not a file")


@contextlib.contextmanager
def text_lines(path: Path) -> Iterator[Iterator[str]]:
    """The lines of a UTF-8 file, with their ends, without a byte order mark; a name in ``.gz`` is unpacked.

    Raises:
        UsageError: the file cannot be read, is damaged or not UTF-8, or has a line of more than `MAX_LINE` characters.
    """
    check_regular(path)
    try:
        with contextlib.ExitStack() as stack:
            opener = gzip.open if path.suffix.lower() == ".gz" else open
            # Rows of a CSV file may hold line ends of any kind, and they must stay as they are.
            yield _bounded(stack.enter_context(opener(path, "rt", encoding="utf-8-sig", newline="")), path)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UsageError(f"{path} cannot be read", why="it is damaged, or no gzip file") from error
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
                why=f"the first byte that is not stands after line {number}",
                fix="Save it anew.",
            ) from error
        if not line:
            return
        number += 1
        if len(line) == MAX_LINE:
            raise UsageError(f"{path} is no table", why=f"line {number} is longer than {MAX_LINE - 1} characters")
        yield line


def csv_rows(lines: Iterator[str], path: Path) -> Iterator[tuple[int, list[str]]]:
    """``(line, cells)`` of each row that is not blank; the line is the one where the row begins, from 1.

    Raises:
        UsageError: quotes do not pair, or a cell is gigantic, so that nobody can tell where rows end.
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
        UsageError: the file cannot be read, or one of `columns` is missing.
    """
    with text_lines(path) as lines:
        rows = csv_rows(lines, path)
        header = [name.strip() for name in next(rows, (0, []))[1]]
        missing = [name for name in columns if name not in header]
        if missing:
            raise UsageError(f"{path} is not the table that was expected", why=f"it has no column {missing[0]!r}")
        for line, cells in rows:
            padded = [*cells, *[""] * (len(header) - len(cells))]
            yield line, dict(zip(header, padded, strict=False))
