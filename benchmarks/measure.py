"""What the benchmarks share: turns, the environment, one measurement at a time, and pages from templates."""

from __future__ import annotations

import fcntl
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lrclr.bench import Timings, interleaved, measure_peaks
from lrclr.bench import environment as bench_environment
from lrclr.reports import render

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["Timings", "alone", "environment", "interleaved", "page", "three"]

_TEMPLATES = Path(__file__).parent / "templates"


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


@contextmanager
def alone(note: Callable[[str], None] = print, folder: Path | None = None) -> Iterator[None]:
    """Wait until no other benchmark measures on this machine, and keep others from measuring in the block.

    Args:
        note: called with a line if it has to wait.
        folder: folder of the lock file. By default the system's folder for temporary files.
    """
    with (Path(folder or tempfile.gettempdir()) / "lrclr-benchmarks.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            note("waiting: another benchmark measures on this machine")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def page(template: str, **values: Any) -> str:
    """A page from one of ``benchmarks/templates``, which may call `three`."""
    return render(template, _TEMPLATES, three=three, **values)


def three(values: Sequence[float], show: str = "{:.2f}") -> str:
    """A median with its quartiles in brackets."""
    middle, low, high = (show.format(value) for value in values)
    return f"{middle} ({low}–{high})"
