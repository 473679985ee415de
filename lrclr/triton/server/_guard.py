"""Ends a server if its `lrclr serve` was killed, by SIGKILL for example.

A separate program, which imports nothing of lrclr: ``python _guard.py FOLDER PREFIX``. It leads the process group that
the server joins. Its standard input is a pipe from `lrclr serve`, so it reads the end of the file when that process has
ended for any reason. Then it kills the group, and removes FOLDER and the regions in /dev/shm whose names begin with
PREFIX.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from pathlib import Path


def main(folder: str, prefix: str) -> None:
    """Wait for the end of `lrclr serve`, and clean up."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    while members := _members(os.getpgrp()):
        for pid in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    shutil.rmtree(folder, ignore_errors=True)
    # With them goes the file that names the folder, so that another `lrclr serve` finds a folder that is still there.
    for region in Path("/dev/shm").glob(f"{prefix}*"):  # noqa: S108 - where Triton puts them
        region.unlink(missing_ok=True)


def _members(group: int) -> list[int]:
    """Living processes of a group, without this one."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, _, its_group = (process / "stat").read_text().rpartition(")")[2].split()[:3]
            if int(its_group) == group and state != "Z" and int(process.name) != os.getpid():
                found.append(int(process.name))
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
