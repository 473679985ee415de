"""Run commands of lrclr with a disk that fails: ``python -m tests.faults.inject``.

Each line of stdin is a job, a JSON list of FOLDER, HOW, WHERE and the arguments of ``lrclr``, which runs in FOLDER.
Each answer is a line of stdout, a JSON list of the exit code and stderr. A job runs in a fork of this process, which
has imported everything. Exports use the cache of `tests.kept_exports`.

Every file opened for writing, rename, link, new folder, removal and fsync below FOLDER is an event. HOW is one of:

- ``full``: the disk is full at the event with the number WHERE.
- ``killed``: the process ends at the event with the number WHERE.
- ``copied``: before each event, FOLDER is copied into the folder WHERE. A killed process would leave this copy.
- ``whole``: nothing fails.
"""

from __future__ import annotations

import errno
import importlib
import json
import os
import shutil
import sys
import tempfile
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.kept_exports import exporting_once

if TYPE_CHECKING:
    from collections.abc import Sequence

_WATCHED = ("os.rename", "os.link", "os.mkdir", "os.remove", "os.rmdir", "os.symlink")
KILLED = 99
# What the commands import.
_IMPORTED = ("lrclr.cli", "lrclr.archive", "lrclr.auto", "lrclr.training", "lrclr_export", "pyarrow.parquet")


class Disk:
    """Counts events below a folder, and fails at one of them."""

    def __init__(self, folder: Path, how: str, where: str) -> None:
        self._folder, self._how, self._where = str(folder), how, where
        self._events = 0
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
        self._events += 1
        if self._how == "copied":
            self._copying = True
            shutil.copytree(self._folder, Path(self._where) / f"{self._events:04d}", symlinks=True)
            self._copying = False
        elif self._how != "whole" and self._events == int(self._where):
            if self._how == "killed":
                os._exit(KILLED)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


def _run(folder: str, how: str, where: str, command: Sequence[str]) -> int:
    from lrclr.cli import main

    os.chdir(folder)
    disk = Disk(Path(folder), how, where)
    os.fsync = disk.fsync
    sys.addaudithook(disk.audit)
    with exporting_once():
        return main(command)


def _answer(folder: str, how: str, where: str, command: Sequence[str]) -> tuple[int, str]:
    """Exit code and stderr of a command in a fork of this process."""
    with tempfile.TemporaryFile() as log:
        child = os.fork()
        if child == 0:
            code = 70
            try:
                os.dup2(log.fileno(), 2)
                os.dup2(2, 1)
                code = _run(folder, how, where, command)
            except BaseException:  # noqa: BLE001 - a fork must not return
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(child, 0)
        log.seek(0)
        return os.waitstatus_to_exitcode(status), log.read().decode()


if __name__ == "__main__":
    for name in _IMPORTED:
        importlib.import_module(name)
    for line in sys.stdin:
        print(json.dumps(_answer(*json.loads(line))), flush=True)
