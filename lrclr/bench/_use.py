"""What a window cost the machine, from counters read before and after it: no thread samples beside the work."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lrclr.bench._machine import cores
from lrclr.bench._nvml import GpuMeter, GpuUse

__all__ = ["Meter", "Use"]

_RAPL: Final = Path("/sys/class/powercap/intel-rapl:0/energy_uj")
_FREQUENCIES: Final = "/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq"
_THROTTLES: Final = "devices/system/cpu/cpu[0-9]*/thermal_throttle/*_throttle_count"


@dataclass(frozen=True, slots=True)
class Use:
    """Between two moments; ``None`` where this system does not tell.

    Attributes:
        cpu_seconds: of this process, all threads. A server's are not in it.
        process: share of the machine's processors that this process had.
        others: share that anything else had, a server on this machine included.
        stolen: share that a hypervisor gave to another machine.
        rss_mib: memory of this process at the end.
        mhz: mean clock of the processors at the end.
        throttled: how often heat held a processor back.
        joules: of the first processor package.
        gpu: of all GPUs.
    """

    cpu_seconds: float
    process: float
    others: float | None
    stolen: float | None
    rss_mib: float | None
    mhz: float | None
    throttled: int | None
    joules: float | None
    gpu: GpuUse | None = None


class Meter:
    """Reads the counters when made, and again in `stop`."""

    def __init__(self) -> None:
        self._throttles, self._joules, self._gpu = _throttles(), _joules(), GpuMeter()
        self._ticks, self._cpu, self._wall = _ticks(), time.process_time(), time.perf_counter()

    def stop(self) -> Use:
        """What was used since."""
        wall, cpu, ticks = time.perf_counter() - self._wall, time.process_time() - self._cpu, _ticks()
        process = cpu / (wall * cores())
        others = stolen = None
        if ticks is not None and self._ticks is not None:
            busy, steal, total = (now - then for now, then in zip(ticks, self._ticks, strict=True))
            # The kernel counts in hundredths of a second: too short a window tells nothing.
            if total >= 10:
                others, stolen = max(0.0, busy / total - process), steal / total
        throttles, joules = _throttles(), _joules()
        return Use(
            cpu_seconds=cpu,
            process=process,
            others=others,
            stolen=stolen,
            rss_mib=_rss(),
            mhz=_mhz(),
            throttled=None if throttles is None or self._throttles is None else throttles - self._throttles,
            # The counter begins anew when it is full.
            joules=None if joules is None or self._joules is None or joules < self._joules else joules - self._joules,
            gpu=self._gpu.stop(),
        )


def _ticks() -> tuple[int, int, int] | None:
    """Busy, stolen and all ticks of the machine's processors so far."""
    try:
        with Path("/proc/stat").open(encoding="ascii") as file:
            user, nice, system, idle, wait, irq, soft, steal = (int(part) for part in file.readline().split()[1:9])
    except (OSError, ValueError):
        return None
    busy = user + nice + system + irq + soft
    return busy, steal, busy + steal + idle + wait


def _rss() -> float | None:
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError, ValueError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _mhz() -> float | None:
    values = _numbers(Path("/"), _FREQUENCIES.lstrip("/"))
    if values:
        return sum(values) / len(values) / 1e3
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    clocks = [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
    return sum(clocks) / len(clocks) if clocks else None


def _throttles() -> int | None:
    values = _numbers(Path("/sys"), _THROTTLES)
    return sum(values) if values else None


def _joules() -> float | None:
    try:
        return int(_RAPL.read_text(encoding="ascii")) / 1e6
    except (OSError, ValueError):
        return None


def _numbers(root: Path, pattern: str) -> list[int]:
    found = []
    for path in root.glob(pattern):
        try:
            found.append(int(path.read_text(encoding="ascii")))
        except (OSError, ValueError):
            continue
    return found
