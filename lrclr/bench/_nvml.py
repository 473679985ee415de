"""GPUs through NVML, if nvidia-ml-py (extra ``bench``) and a driver are installed. Not run on a GPU yet."""

from __future__ import annotations

from functools import cache
from typing import Any

from lrclr._records import Record

# Reasons for lower clocks: hardware slow-down, software and hardware thermal limit, power brake.
_THROTTLED = 0x08 | 0x20 | 0x40 | 0x80


class GpuUse(Record, frozen=True):
    """Use of all visible GPUs between two times.

    Attributes:
        joules: energy.
        busy: largest utilisation of a GPU in NVML's last sampling period.
        memory_mib: memory in use.
        mhz: lowest clock of a GPU's multiprocessors at the end.
        throttled: whether heat or power limited a GPU at the end.
    """

    joules: float
    busy: float
    memory_mib: float
    mhz: float
    throttled: bool


def describe() -> list[dict[str, Any]]:
    """Name, memory, driver and power limit of each GPU."""
    library, handles = _handles()
    return [
        {
            "name": library.nvmlDeviceGetName(handle),
            "memory_gib": round(library.nvmlDeviceGetMemoryInfo(handle).total / 2**30, 1),
            "driver": library.nvmlSystemGetDriverVersion(),
            "power_limit_w": library.nvmlDeviceGetEnforcedPowerLimit(handle) / 1e3,
        }
        for handle in handles
    ]


class GpuMeter:
    """Reads the counters when it is made, and again in `stop`."""

    def __init__(self) -> None:
        self._begin = _energy()

    def stop(self) -> GpuUse | None:
        """The use since then; None without a GPU."""
        library, handles = _handles()
        if not handles or self._begin is None:
            return None
        end = _energy() or self._begin
        reasons = [library.nvmlDeviceGetCurrentClocksEventReasons(handle) for handle in handles]
        return GpuUse(
            joules=end - self._begin,
            busy=max(library.nvmlDeviceGetUtilizationRates(handle).gpu for handle in handles) / 100,
            memory_mib=sum(library.nvmlDeviceGetMemoryInfo(handle).used for handle in handles) / 2**20,
            mhz=min(library.nvmlDeviceGetClockInfo(handle, library.NVML_CLOCK_SM) for handle in handles),
            throttled=any(reason & _THROTTLED for reason in reasons),
        )


def _energy() -> float | None:
    library, handles = _handles()
    return sum(library.nvmlDeviceGetTotalEnergyConsumption(handle) for handle in handles) / 1e3 if handles else None


@cache
def _handles() -> tuple[Any, list[Any]]:
    try:
        import pynvml
    except ImportError:
        return None, []
    try:
        pynvml.nvmlInit()
        return pynvml, [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return None, []
