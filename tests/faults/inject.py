"""Run a command of lrclr with a disk that fails: ``python -m tests.faults.inject FOLDER HOW WHERE COMMAND...``.

Every file opened for writing, rename, link, new folder, removal and fsync below FOLDER is an event. HOW is one of:

- ``full``: the disk is full at the event with the number WHERE.
- ``killed``: the process ends at the event with the number WHERE.
- ``copied``: before each event, FOLDER is copied into the folder WHERE. A killed process would leave this copy.

The number of events is the last line of stderr.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
from pathlib import Path
from typing import Any

_WATCHED = ("os.rename", "os.link", "os.mkdir", "os.remove", "os.rmdir", "os.symlink")
KILLED = 99


class Disk:
    """Counts events below a folder, and fails at one of them."""

    def __init__(self, folder: Path, how: str, where: str) -> None:
        self._folder, self._how, self._where = str(folder), how, where
        self.events = 0
        self._copying = False
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
        path = os.path.abspath(path)  # noqa: PTH100 - called before and inside pathlib's own
        if self._copying or not path.startswith(self._folder):
            return
        self.events += 1
        if self._how == "copied":
            self._copying = True
            shutil.copytree(self._folder, Path(self._where) / f"{self.events:04d}", symlinks=True)
            self._copying = False
        elif self.events == int(self._where):
            if self._how == "killed":
                os._exit(KILLED)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


def main() -> int:
    folder, how, where, *command = sys.argv[1:]
    from lrclr.cli import main as lrclr

    disk = Disk(Path(folder), how, where)
    os.fsync = disk.fsync
    sys.addaudithook(disk.audit)
    code = lrclr(command)
    print(f"\n{disk.events}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
