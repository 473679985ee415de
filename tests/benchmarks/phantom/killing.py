"""Kills a run of `make_dataset` with SIGKILL."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.phantom.staging import kept_folder
from tests.bundles import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parents[3]


def killed_amid(call: Sequence[str], out: Path, *, after: int) -> Path:
    """Run the command, kill it once `after` pictures are written, and return its work folder."""
    work = kept_folder(out) / "work"
    command = [sys.executable, "-m", "benchmarks.phantom.make_dataset", *call]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: process.poll() is not None or len(list(work.glob("images/*/[!.]*.png"))) >= after)
        assert process.poll() is None, "it ended before it could be killed"
        workers = _children(process.pid)
        process.kill()
    assert workers
    # Workers that survive their parent would hold the CT in memory.
    wait_until(lambda: not any(_runs(worker) for worker in workers))
    assert not out.exists()
    return work


def _state(pid: int) -> list[str]:
    """The fields after the name in /proc/PID/stat: state, parent and so on. Empty if the process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _children(parent: int) -> list[int]:
    numbers = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]
    return [pid for pid in numbers if _state(pid)[1:2] == [str(parent)]]


def _runs(pid: int) -> bool:
    # An orphan that has ended may remain as a zombie.
    return _state(pid)[:1] not in ([], ["Z"])
