"""Open loop of a benchmark: every rate of every target in turn, and the search for the highest rate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from lrclr.bench._interleave import shuffled_rounds
from lrclr.bench._open import arrivals, highest_rate, open_window
from lrclr.bench._result import Measurement, Round, Search
from lrclr.bench._statistics import quantiles
from lrclr.bench._use import Meter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from lrclr.bench._case import Case
    from lrclr.bench._closed import Work
    from lrclr.bench._options import BenchOptions

LOAD_ROUNDS: Final = 3
_LEAST_RATE: Final = 20.0  # calls a second; below, windows are longer: a queue needs some calls to form
_TRIAL_CALLS: Final = 300  # so that the p99 is not the largest sample
_LONGEST: Final = 10  # times the least length

Loaded = tuple["Case", "Work", float]
"""A case without a rate, its call, and the calls a second of its closed loop."""


def load_rounds(
    loaded: Sequence[Loaded], options: BenchOptions, seconds: float, step: Callable[[str, float], None]
) -> Iterator[Measurement]:
    """Every rate, in shuffled rounds. Each round has other arrivals, the same for all targets."""
    cases = [
        (replace(case, rate=round(rate, 4), share=share), work)
        for case, work, capacity in loaded
        for rate, share in (
            *((capacity * share, share) for share in options.shares),
            *((rate, None) for rate in options.rates),
        )
    ]
    if not cases:
        return
    planned = max(options.load_seconds, seconds / (len(cases) * LOAD_ROUNDS))
    rounds: list[list[Round]] = [[] for _ in cases]
    count = len(cases) * LOAD_ROUNDS
    for done, (number, place) in enumerate(shuffled_rounds(range(len(cases)), LOAD_ROUNDS, seed=options.seed + 7)):
        case, work = cases[place]
        step(f"load: {case.target}, {case.what}", done / count)
        window = min(
            max(planned, options.load_seconds * _LEAST_RATE / (case.rate or 1.0)), _LONGEST * options.load_seconds
        )
        made = _window(case, work, window, options.seed + number)
        if made is not None:
            rounds[place].append(made)
    for (case, _), own in zip(cases, rounds, strict=True):
        if own:
            yield Measurement(case, (), True, options.tolerance, tuple(own))


def searched(case: Case, work: Work, capacity: float, options: BenchOptions) -> Search:
    """The highest rate with a p99 below the limit of the options."""
    target = options.p99_ms
    assert target is not None  # noqa: S101 - for the type checker

    def trial(rate: float) -> tuple[float | None, bool]:
        seconds = min(max(_TRIAL_CALLS / rate, options.load_seconds), _LONGEST * options.load_seconds)
        made = _window(replace(case, rate=rate), work, seconds, options.seed)
        if made is None or made.saturated:
            return None, False
        p99 = quantiles(made.latency_us)["p99"] / 1e3
        return p99, p99 <= target

    rate, trials = highest_rate(trial, capacity)
    rounded = tuple((round(each, 3), None if p99 is None else round(p99, 4), held) for each, p99, held in trials)
    return Search(replace(case, rate=round(rate, 3)), target, rounded)


def _window(case: Case, work: Work, seconds: float, seed: int) -> Round | None:
    """One window; None if no call was answered."""
    assert case.rate is not None  # noqa: S101 - open loop
    meter = Meter()
    made = open_window(work, case.callers, arrivals(case.rate, seconds, seed=seed), seconds)
    if not made.latency:
        return None
    latency = tuple(round(each * 1e6, 1) for each in made.latency)
    return Round(made.seconds, latency, meter.stop(), made.due, made.saturated)
