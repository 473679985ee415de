"""The number of processors that this process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Final

__all__ = ["cpu_quota", "processors"]

_QUOTA: Final = Path("/sys/fs/cgroup/cpu.max")


def processors() -> int:
    """Return the number of processors that this process may use: those of its CPU affinity, up to a container's quota.

    A container with a quota of 2 processors on a machine with 64 sees all 64, and 64 threads would wait for each other.
    psutil does not read quotas, and running a bundle does not need it.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def cpu_quota(file: Path = _QUOTA) -> float | None:
    """Return how many processors a container may use on average; None without a limit.

    Args:
        file: ``cpu.max`` of the control group (cgroup v2): quota and period in microseconds, or ``max`` and a period.
    """
    try:
        quota, period = file.read_text(encoding="ascii").split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None
