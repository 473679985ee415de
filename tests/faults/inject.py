"""A disk that fails on cue: ``python -m tests.faults.inject FOLDER HOW NUMBER COMMAND...``.

Runs a command of lrclr. Every file opened for writing, rename, link, new folder, removal and fsync below FOLDER is an
event; at the event of that NUMBER the disk is full (``full``) or the process is gone (``killed``). With ``count``
nothing happens, and the number of events is the last line of stderr.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Any

_WATCHED = ("os.rename", "os.link", "os.mkdir", "os.remove", "os.rmdir", "os.symlink")
KILLED = 99


class Disk:
    """Counts events below a folder, and fails at one of them."""

    def __init__(self, folder: Path, how: str, number: int) -> None:
        self._folder, self._how, self._number = str(folder), how, number
        self.events = 0
        self._fsync = os.fsync

    def fsync(self, fd: Any) -> None:
        self._below(str(Path(f"/proc/self/fd/{fd}").readlink()))
        self._fsync(fd)

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, str | bytes) and isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR):
                self._below(os.fsdecode(path))
        elif event in _WATCHED:
            self._below(os.fsdecode(arguments[0]))

    def _below(self, path: str) -> None:
        if not os.path.abspath(path).startswith(self._folder):  # noqa: PTH100 - called before and inside pathlib's own
            return
        self.events += 1
        if self.events != self._number:
            return
        if self._how == "killed":
            os._exit(KILLED)
        if self._how == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


def main() -> int:
    folder, how, number, *command = sys.argv[1:]
    from lrclr.cli import main as lrclr

    disk = Disk(Path(folder), how, int(number))
    os.fsync = disk.fsync
    sys.addaudithook(disk.audit)
    code = lrclr(command)
    print(f"\n{disk.events}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
