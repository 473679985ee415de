"""Interleaved timing: candidates take turns, so that a machine whose speed drifts does not decide."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Work = Callable[[], object]


@dataclass(frozen=True)
class Timings:
    """Seconds of each round, for each candidate."""

    seconds: dict[str, list[float]]

    def median_ms(self, name: str) -> float:
        return float(np.median(self.seconds[name]) * 1e3)

    def ratio(self, baseline: str, name: str) -> tuple[float, float, float]:
        """How many times faster than `baseline`, round by round: median, first and third quartile."""
        ratios = np.array(self.seconds[baseline]) / np.array(self.seconds[name])
        middle, low, high = (float(x) for x in np.percentile(ratios, (50, 25, 75)))
        return middle, low, high

    def to_dict(self) -> dict[str, Any]:
        return {name: [round(value, 6) for value in values] for name, values in self.seconds.items()}


def interleaved(
    candidates: Mapping[str, Work], *, rounds: int, warmup: int = 3, clock: Callable[[], float] = time.perf_counter
) -> Timings:
    """Run every candidate once a round, in turn, `rounds` times after `warmup` rounds that do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    names = list(candidates)
    for number in range(warmup + rounds):
        # Another order each round: whoever follows a cache-hungry neighbour is not always the same.
        for name in names[number % len(names) :] + names[: number % len(names)]:
            begin = clock()
            candidates[name]()
            elapsed = clock() - begin
            if number >= warmup:
                seconds[name].append(elapsed)
    return Timings(seconds)


def environment() -> dict[str, Any]:
    """What the numbers depend on."""
    import onnxruntime
    import torch
    import transformers

    size = 2048
    a, b = torch.randn(size, size), torch.randn(size, size)
    best = min(_timed(lambda: torch.mm(a, b)) for _ in range(8))
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "fp32_gemm_gflops": round(2 * size**3 / best / 1e9),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "onnxruntime": onnxruntime.__version__,
    }


def _timed(work: Work) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def _processor() -> str:
    """Family and model beside the name: virtual machines often hide the latter."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    isa = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in fields.get("flags", "").split()]
    return f"{fields.get('model name', 'unknown')} ({', '.join(isa)})"
