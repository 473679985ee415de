"""The most memory that this process has had, as Linux counts it."""

from __future__ import annotations

from pathlib import Path

__all__ = ["peak_mb"]


def peak_mb() -> int:
    """MB of this process alone. getrusage's peak includes that of the parent before the fork."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024
