"""Standard output and standard error that are closed, full, or whose reader has gone.

What a command prints on standard output is its answer: if it cannot be written, the command fails. Standard error has
notes, progress and errors: if they cannot be written they are lost, and the command goes on.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Output", "guarded_streams"]

_STDIN, _STDOUT, _STDERR = 0, 1, 2


class Output(io.RawIOBase):
    """Writes to a file descriptor, and keeps the first error.

    After an error it takes everything and writes nothing, so that what is still in a buffer does not raise once more
    when the interpreter ends.

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
        """Always."""
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
            # Another program that shares the terminal or the pipe has made it non-blocking.
            select.select([], [self._descriptor], [])
            return 0

    def _fail(self, error: OSError) -> None:
        self.failed = error
        raise error


class _Notes(Output):
    """Drops what cannot be written. The next write is tried again: a full disk may have room by then."""

    def _fail(self, error: OSError) -> None:
        pass


@contextlib.contextmanager
def guarded_streams() -> Iterator[Output | None]:
    """Replace `sys.stdout` and `sys.stderr` while the block runs, where they are the process's own.

    Yields:
        What standard output is written to; None if the application has put another object in its place.
    """
    stdin, stdout, stderr = sys.stdin, sys.stdout, sys.stderr
    # Before any file is opened. Standard output is opened so that writing fails, as GNU's programs do it.
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
    """Whether a stream is the one that Python made of a descriptor; None is what it makes of a closed one."""
    if stream is None:
        return True
    try:
        return isinstance(stream, io.TextIOWrapper) and stream.fileno() == descriptor
    except (OSError, ValueError):
        return False


def _text(raw: Any, replaced: Any) -> io.TextIOWrapper:
    if replaced is not None:
        # Not an error of this command if it fails.
        with contextlib.suppress(OSError, ValueError):
            replaced.flush()
    return io.TextIOWrapper(
        raw,
        encoding=getattr(replaced, "encoding", None) or "utf-8",
        # A name may hold bytes that are not text, or characters that the terminal does not have.
        errors="backslashreplace",
        line_buffering=raw.isatty(),
        write_through=isinstance(raw, _Notes),
    )


def _descriptor(stream: Any, standard: int, flags: int) -> int:
    """The standard descriptor, which is opened on /dev/null if it is closed.

    Otherwise the next file that is opened would take its place, and what a library prints would end in that file.

    Returns:
        `standard`; another one, on /dev/null, if it was closed and a file has taken its place already.
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
