"""Options of a benchmark: what is measured, and for how long."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lrclr.bench._case import STAGES, Stage
from lrclr.bench._statistics import CALM_WINDOWS
from lrclr.errors import UsageError


@dataclass(frozen=True)
class BenchOptions:
    """What to measure. Values are checked when an instance is made.

    Attributes:
        stages: single graphs, pixels to findings ("classifier"), files to findings ("files").
        batches: images of a call.
        prompts: numbers of prompts, which must be even; by default that of the model's findings.
        callers: numbers of threads that call at once, for "classifier" and "files".
        shares: open loop: rates as shares of the calls a second that the closed loop reached.
        rates: open loop: calls a second.
        p99_ms: find the highest rate whose p99 stays below this.
        seconds: about how long measuring takes. Opening, quality, further warm-up and slow calls come on top.
        load_seconds: least length of a window in open loop; a window is longer at rates below 20 a second.
        rounds: windows of each configuration; fewer, but at least 5, if `seconds` is too short.
        warmup_windows: most windows before the rounds. Warm-up ends earlier when the last 3 windows agree.
        tolerance: largest difference between windows that agree.
        files: encoded images to read; by default the sample radiographs (PNG).
        exact: whether files are read in full; see `lrclr.images.read_for_model`.
        peaks: whether to measure the machine's fastest matrix product.
        seed: seed of orders and arrivals.
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
    warmup_windows: int = 12
    tolerance: float = 0.1
    files: tuple[Path, ...] = ()
    exact: bool = False
    peaks: bool = True
    seed: int = 0

    @classmethod
    def quick(cls) -> BenchOptions:
        """A first look in about half a minute: four configurations, closed loop only."""
        return cls(
            stages=("classifier", "files"), callers=(1,), shares=(), seconds=20.0, rounds=5, warmup_windows=6,
            peaks=False,
        )  # fmt: skip

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
        if self.rounds < 1 or self.warmup_windows < CALM_WINDOWS:
            raise UsageError(f"there must be at least one round and {CALM_WINDOWS} windows of warm-up")

    @property
    def load_stage(self) -> Stage:
        """The stage that is measured in open loop."""
        return "classifier" if "classifier" in self.stages else self.stages[-1]

    def to_dict(self) -> dict[str, Any]:
        """The options for a result, without names of files."""
        content = {key: list(each) if isinstance(each, tuple) else each for key, each in asdict(self).items()}
        del content["files"], content["peaks"]
        return {**content, "own_files": len(self.files)}
