"""Use of the machine in a window, from counters that are read before and after it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import psutil

from lrclr._processors import processors
from lrclr._records import Record
from lrclr.bench._nvml import GpuMeter, GpuUse

_RAPL: Final = Path("/sys/class/powercap/intel-rapl:0/energy_uj")
_THROTTLES: Final = "devices/system/cpu/cpu[0-9]*/thermal_throttle/*_throttle_count"


class Use(Record, frozen=True):
    """Use between two times; ``None`` if the system does not report a value.

    Attributes:
        cpu_seconds: processor time of all threads of this process, without a server's.
        process: share of the machine's processors that this process used.
        others: share that other processes used, such as a server on this machine.
        stolen: share that a hypervisor gave to other machines.
        rss_mib: memory of this process at the end.
        mhz: mean clock of the processors at the end.
        throttled: number of times that heat limited a processor.
        joules: energy of the first processor package.
        gpu: use of all GPUs.
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
    """Reads the counters when it is made, and again in `stop`."""

    def __init__(self) -> None:
        self._throttles, self._joules, self._gpu = _throttles(), _joules(), GpuMeter()
        self._ticks, self._cpu, self._wall = _ticks(), time.process_time(), time.perf_counter()

    def stop(self) -> Use:
        """The use since then."""
        wall, cpu, ticks = time.perf_counter() - self._wall, time.process_time() - self._cpu, _ticks()
        process = cpu / (wall * processors())
        others = stolen = None
        busy, steal, total = (now - then for now, then in zip(ticks, self._ticks, strict=True))
        # The kernel counts in hundredths of a second, too coarse for a short window.
        if total >= 0.1:
            others, stolen = max(0.0, busy / total - process), steal / total
        throttles, joules = _throttles(), _joules()
        return Use(
            cpu_seconds=cpu,
            process=process,
            others=others,
            stolen=stolen,
            rss_mib=psutil.Process().memory_info().rss / 2**20,
            mhz=_mhz(),
            throttled=None if throttles is None or self._throttles is None else throttles - self._throttles,
            # The counter restarts at its maximum.
            joules=None if joules is None or self._joules is None or joules < self._joules else joules - self._joules,
            gpu=self._gpu.stop(),
        )


def _ticks() -> tuple[float, float, float]:
    """Seconds of the machine's processors so far: busy, stolen by a hypervisor, and total."""
    times = psutil.cpu_times()
    steal = getattr(times, "steal", 0.0)
    idle = times.idle + getattr(times, "iowait", 0.0)
    # Linux counts guests in `user` already.
    total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
    return total - idle - steal, steal, total


def _mhz() -> float | None:
    clock = psutil.cpu_freq() if hasattr(psutil, "cpu_freq") else None
    return None if clock is None else clock.current


def _throttles() -> int | None:
    counts = []
    for path in Path("/sys").glob(_THROTTLES):
        try:
            counts.append(int(path.read_text(encoding="ascii")))
        except (OSError, ValueError):
            continue
    return sum(counts) if counts else None


def _joules() -> float | None:
    try:
        return int(_RAPL.read_text(encoding="ascii")) / 1e6
    except (OSError, ValueError):
        return None
