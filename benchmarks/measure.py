"""What the benchmarks here take from `lrclr bench`: turns, and the environment, flat."""

from __future__ import annotations

from typing import Any

import torch

from lrclr.bench import Timings, interleaved, measure_peaks
from lrclr.bench import environment as bench_environment

__all__ = ["Timings", "environment", "interleaved"]


def environment() -> dict[str, Any]:
    """What the numbers depend on: `lrclr.bench.environment`, the machine's peak, and torch's threads."""
    found = bench_environment()
    machine = found["machine"]
    peaks, bandwidth = measure_peaks(1.0)
    return {
        "processor": f"{machine['processor']} ({', '.join(machine['flags'])})",
        "cores": machine["cores"],
        "threads": torch.get_num_threads(),
        "fp32_gemm_gflops": round(next(peak.gops for peak in peaks if peak.dtype == "fp32")),
        "bandwidth_gbs": bandwidth,
        "system": found["system"],
        "python": found["python"],
        "machine": machine,
        "settings": found["settings"],
        **found["packages"],
    }
