"""Options of a benchmark."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lrclr.bench._case import STAGES, Stage
from lrclr.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["BenchOptions"]


@dataclass(frozen=True)
class BenchOptions:
    """Options of a benchmark.

    Attributes:
        stages: single graphs, pixels to findings, files to findings.
        batches: numbers of images per call.
        prompts: even numbers of prompts; by default that of the model.
        callers: numbers of threads that call at the same time, for stages that are not a single graph.
        shares: rates of the open loop, as shares of the calls per second that the closed loop reached.
        rates: rates of the open loop, in calls per second.
        p99_ms: find the highest rate whose p99 is below this.
        seconds: approximate time for measuring, without opening, warm-up, quality and slow calls.
        load_seconds: least length of a window of the open loop; windows are longer at less than 20 calls per second.
        rounds: number of rounds. It is reduced, but not below 5, if the time does not suffice.
        tolerance: how much windows of a steady state may differ.
        files: encoded images; by default the sample radiographs (PNG).
        exact: whether files are read in full; see `lrclr.images.read_for_model`.
        peaks: whether to measure the machine's fastest product of matrices.
        seed: random seed of orders and arrivals.
    """

    stages: tuple[Stage, ...] = STAGES
    batches: tuple[int, ...] = (1, 8)
    prompts: tuple[int, ...] = ()
    callers: tuple[int, ...] = (1, 2)
    shares: tuple[float, ...] = (0.5, 0.7, 0.9)
    rates: tuple[float, ...] = ()
    p99_ms: float | None = None
    seconds: float = 120.0
    load_seconds: float = 2.0
    rounds: int = 10
    tolerance: float = 0.1
    files: tuple[Path, ...] = ()
    exact: bool = False
    peaks: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for stage in self.stages:
            if stage not in STAGES:
                raise UsageError(f"unknown stage {stage!r}", fix=f"Choose from {', '.join(STAGES)}.")
        if not self.stages:
            raise UsageError("no stage is given", fix=f"Choose from {', '.join(STAGES)}.")
        for name, values in (("batch", self.batches), ("prompts", self.prompts), ("concurrency", self.callers)):
            if any(not 1 <= value <= 4096 for value in values) or (not values and name != "prompts"):
                raise UsageError(f"{name} must be whole numbers from 1 to 4096")
        if any(value % 2 for value in self.prompts):
            raise UsageError("a number of prompts must be even", why="a finding has a positive and a negative one")
        positive = (*self.shares, *self.rates, self.seconds, self.load_seconds, self.tolerance, self.p99_ms or 1.0)
        if not all(math.isfinite(value) and value > 0 for value in positive) or self.p99_ms == 0:
            raise UsageError("rates, seconds, stability and p99 must be numbers above 0")
        if self.rounds < 1:
            raise UsageError("there must be at least one round")

    @property
    def load_stage(self) -> Stage:
        """The stage of the open loop."""
        return "classifier" if "classifier" in self.stages else self.stages[-1]

    def to_dict(self) -> dict[str, Any]:
        """The options in JSON's types, without names of files."""
        return {
            "stages": list(self.stages), "batches": list(self.batches), "prompts": list(self.prompts),
            "callers": list(self.callers), "shares": list(self.shares), "rates": list(self.rates),
            "p99_ms": self.p99_ms, "seconds": self.seconds, "load_seconds": self.load_seconds, "rounds": self.rounds,
            "tolerance": self.tolerance, "own_files": len(self.files), "exact": self.exact, "seed": self.seed,
        }  # fmt: skip
