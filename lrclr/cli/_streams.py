"""Handling of standard output and standard error that are closed or full, or whose reader has closed the pipe.

Standard output has a command's result: if it cannot be written, the command fails. Standard error has notes, progress
and errors: if they cannot be written, they are dropped, and the command continues.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import sys
from collections.abc import Iterator
from typing import Any

_STDIN, _STDOUT, _STDERR = 0, 1, 2


class Output(io.RawIOBase):
    """Writes to a file descriptor and keeps the first error.

    After an error it discards what is written, so that the rest of a buffer does not raise again when the interpreter
    ends.

    Attributes:
        failed: the first error, which `write` also raised; None if there was none.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self.failed: OSError | None = None

    def fileno(self) -> int:
        """The descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: Any, /) -> int:
        """Write all of `data`."""
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while rest and self.failed is None:
                rest = rest[self._some(rest) :]
        except OSError as error:
            self._fail(error)
        return size

    def _some(self, data: memoryview) -> int:
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:
            # Another program with the same terminal or pipe has made it non-blocking.
            select.select([], [self._descriptor], [])
            return 0

    def _fail(self, error: OSError) -> None:
        self.failed = error
        raise error


class _Notes(Output):
    """Drops what cannot be written. The next write is attempted: a full disk may have room by then."""

    def _fail(self, error: OSError) -> None:
        pass


@contextlib.contextmanager
def guarded_streams() -> Iterator[Output | None]:
    """Replace `sys.stdout` and `sys.stderr` while the block runs, unless the application has replaced them itself.

    Yields:
        The object that standard output is written to; None if the application has replaced it.
    """
    stdin, stdout, stderr = sys.stdin, sys.stdout, sys.stderr
    # Before any file is opened. A closed standard output is opened read-only so that writing fails, as in GNU programs.
    _descriptor(stdin, _STDIN, os.O_RDONLY)
    answers = Output(_descriptor(stdout, _STDOUT, os.O_RDONLY))
    notes = _Notes(_descriptor(stderr, _STDERR, os.O_WRONLY))
    own = _is_own(stdout, _STDOUT)
    if own:
        sys.stdout = _text(io.BufferedWriter(answers), stdout)
    elif isinstance(stdout, io.TextIOWrapper):
        stdout.reconfigure(errors="backslashreplace")
    if _is_own(stderr, _STDERR):
        sys.stderr = _text(notes, stderr)
    elif isinstance(stderr, io.TextIOWrapper):
        stderr.reconfigure(errors="backslashreplace")
    try:
        yield answers if own else None
    finally:
        sys.stdin, sys.stdout, sys.stderr = stdin, stdout, stderr


def _is_own(stream: Any, descriptor: int) -> bool:
    """Return whether Python made this stream for a descriptor. For a closed descriptor, it makes None."""
    if stream is None:
        return True
    try:
        return isinstance(stream, io.TextIOWrapper) and stream.fileno() == descriptor
    except (OSError, ValueError):
        return False


def _text(raw: Any, replaced: Any) -> io.TextIOWrapper:
    if replaced is not None:
        # A failure here is not an error of this command.
        with contextlib.suppress(OSError, ValueError):
            replaced.flush()
    return io.TextIOWrapper(
        raw,
        encoding=getattr(replaced, "encoding", None) or "utf-8",
        # A name may contain bytes that are not text, or characters that the encoding lacks.
        errors="backslashreplace",
        line_buffering=raw.isatty(),
        write_through=isinstance(raw, _Notes),
    )


def _descriptor(stream: Any, standard: int, flags: int) -> int:
    """Return a standard descriptor, after opening /dev/null in its place if it is closed.

    Otherwise the next opened file would get this descriptor, and the prints of a library would go into that file.

    Returns:
        `standard`, or another descriptor of /dev/null if a file has this number already.
    """
    if stream is not None:
        return standard
    try:
        os.fstat(standard)
    except OSError as error:
        if error.errno != errno.EBADF:
            raise
    else:
        return os.open(os.devnull, flags)
    opened = os.open(os.devnull, flags)
    if opened != standard:
        os.dup2(opened, standard)
        os.close(opened)
    os.set_inheritable(standard, True)
    return standard
