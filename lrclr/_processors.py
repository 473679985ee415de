"""The number of processors that this process may use, and their instructions."""

from __future__ import annotations

import math
import os
from functools import cache
from pathlib import Path
from typing import Final

from lrclr.errors import UsageError

FLAGS: Final = (
    "avx2", "fma", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16",
    "amx_int8", "asimd", "asimddp", "bf16", "i8mm", "sve",
)  # fmt: skip
"""Flags of a processor on which the speed of matrix products depends."""

_QUOTA: Final = Path("/sys/fs/cgroup/cpu.max")
_MOST_THREADS: Final = 4096


def check_threads(threads: int | None) -> None:
    """Raise UsageError if an engine cannot have so many threads; None stands for its default."""
    if threads is not None and (not isinstance(threads, int) or not 1 <= threads <= _MOST_THREADS):
        raise UsageError(
            f"an engine cannot have {threads} threads",
            fix=f"An engine needs at least one thread, and has at most {_MOST_THREADS}.",
        )


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


def cpu_flags() -> frozenset[str]:
    """The `FLAGS` of this processor; none if the system does not report them."""
    found = cpu_info()
    return frozenset(FLAGS) & frozenset((found.get("flags") or found.get("Features") or "").split())


@cache
def cpu_info() -> dict[str, str]:
    """The first processor's fields in ``/proc/cpuinfo``; none on other systems than Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    fields: dict[str, str] = {}
    for key, _, value in (line.partition(":") for line in lines):
        fields.setdefault(key.strip(), value.strip())
    return fields
