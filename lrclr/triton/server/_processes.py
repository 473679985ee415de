"""Processes and connections of a server, from Linux's /proc."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from pathlib import Path
from typing import NamedTuple

from lrclr.contract import GRAPHS, MODEL

# With a prefix that the bundle gives its models' names.
_MODEL_FOLDER = re.compile(r"/((?:[A-Za-z][\w-]*)?(?:{}))/(\d+)(?:/|\0|$)".format("|".join((*GRAPHS, MODEL))).encode())
_ESTABLISHED, _LISTEN = "01", "0A"


class Backend(NamedTuple):
    """A child process of a server, which runs a model.

    Attributes:
        pid: process id.
        model: name of the model; "" if the process has ended.
        version: version of the model; 0 if the process has ended.
        dead: whether the process has ended, and its parent has not waited for it.
    """

    pid: int
    model: str
    version: int
    dead: bool


def backends_of(pid: int) -> list[Backend]:
    """The child processes of a server. Empty if the system has no /proc, or the server has ended."""
    found = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [_backend(int(child)) for child in file.read_text().split()]
    return [backend for backend in found if backend is not None]


def kill(pids: list[int]) -> None:
    """Kill processes, some of which may have ended before."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def kill_group(group: int) -> None:
    """Kill all processes of a group, if there are any."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def unsent_bytes(ports: set[int]) -> int:
    """Number of bytes in the system's send queues of these ports."""
    return sum(unsent for port, state, unsent, _ in _connections() if port in ports and state == _ESTABLISHED)


def port_owner(port: int) -> str | None:
    """Process id and program that listen on a port; None if this account may not read them."""
    inodes = {f"socket:[{inode}]" for number, state, _, inode in _connections() if number == port and state == _LISTEN}
    if not inodes:
        return None
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                with contextlib.suppress(OSError):
                    if str(descriptor.readlink()) in inodes:
                        return f"process {process.name} ({(process / 'comm').read_text().strip()})"
    return None


def _backend(pid: int) -> Backend | None:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return None  # it has ended
    match = _MODEL_FOLDER.search(command)
    model, version = (match[1].decode(), int(match[2])) if match else ("", 0)
    return Backend(pid, model, version, state == "Z")


def _connections() -> list[tuple[int, str, int, str]]:
    """Local port, state, unsent bytes and inode of every TCP connection."""
    rows = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                port, unsent = fields[1].rpartition(":")[2], fields[4].partition(":")[0]
                rows.append((int(port, 16), fields[3], int(unsent, 16), fields[9]))
    return rows
