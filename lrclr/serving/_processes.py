"""The processes that a server has begun, as the system's tables tell of them."""

from __future__ import annotations

import os
import signal
from pathlib import Path

__all__ = ["dead_children", "kill_group"]


def dead_children(pid: int) -> set[str]:
    """Children of a process that have ended without it having seen to that."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        states = {child: Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] for child in children}
    except OSError:
        return set()  # gone while we looked, or no such table: an inference will tell
    return {child for child, state in states.items() if state == "Z"}


def kill_group(group: int) -> None:
    """End all processes of a group, if there are any."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return
