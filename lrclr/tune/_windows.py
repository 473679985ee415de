"""Windows of load, and the rate that they support. A trial is a function, so that nothing here needs a server."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Final

from msgspec import Meta

from lrclr._records import Record
from lrclr.bench import quantiles

_AGREE: Final = 0.15
"""Largest difference between the throughputs of windows that agree, relative to their mean."""
_CLOSE: Final = 1.001
"""Allows for rounding."""


class Window(Record, frozen=True):
    """One window of load.

    Attributes:
        offered: requests a second that were due at random times; None for callers that wait for their answers.
        seconds: wall time, until the last answer.
        latency_ms: latency of each answered request, from when it was due.
        lost: requests that were refused, failed, or given up.
        client: processors that the load generator used.
    """

    offered: float | None
    seconds: Annotated[float, Meta(gt=0)]
    latency_ms: tuple[float, ...]
    lost: int = 0
    client: float = 0.0


class Plan(Record, frozen=True):
    """The windows of one measurement.

    Attributes:
        search: windows that look for the rate.
        repeats: further windows at that rate. As many again follow if they disagree.
        step: factor between the first rates.
    """

    search: int
    repeats: int
    step: float


class Estimate(Record, frozen=True):
    """A rate, and the windows that support it.

    Attributes:
        rate: requests a second that are answered within the limit, none lost; 0 if no window was within it.
        score: the rate at which the 99th percentile is that of the limit, interpolated between the windows. It ranks
            configurations.
        p99_ms: 99th percentile of the latency at that rate; if it is 0, at the lowest rate that was tried. None
            without an answer.
        spread: difference between the windows at that rate, relative to their mean: of the 99th percentiles, or of the
            throughputs of callers that wait.
        stable: whether these windows agree.
        windows: every window, in order.
        failure: the error of a server that did not start.
    """

    rate: float
    score: float
    p99_ms: float | None
    spread: float
    stable: bool
    windows: tuple[Window, ...]
    failure: str | None = None

    @property
    def key(self) -> tuple[float, float]:
        """Sorts estimates: a higher score is better, and of equal scores a lower latency."""
        return self.score, -math.inf if self.p99_ms is None else -self.p99_ms

    @property
    def supporting(self) -> tuple[Window, ...]:
        """The windows at that rate; all windows of callers that wait."""
        return tuple(each for each in self.windows if each.offered in {None, self.rate})

    @classmethod
    def failed(cls, why: str) -> Estimate:
        """The estimate of a configuration whose server did not start."""
        return cls(0.0, 0.0, None, 0.0, stable=False, windows=(), failure=why)


def open_estimate(trial: Callable[[float], Window], start: float, plan: Plan, limit_ms: float) -> Estimate:
    """The highest rate of requests at random times that is answered within a limit.

    Args:
        trial: measures one window at a rate.
        start: the first rate to try.
        plan: number of windows.
        limit_ms: limit of the 99th percentile.
    """
    windows = [trial(start)]
    most = plan.search + 2 * plan.repeats
    while len(windows) < most:
        low, high = _supported(windows, limit_ms)
        searching = len(windows) < plan.search or most - len(windows) > plan.repeats
        if low is None:
            rate = high / plan.step
        elif math.isinf(high) and len(windows) < plan.search:
            rate = low * plan.step
        elif searching and high / low > _CLOSE * plan.step**0.5 and not math.isinf(high):
            rate = (low * high) ** 0.5
        elif _confirmed(windows, low, plan, limit_ms) and len(windows) >= plan.search + plan.repeats:
            break
        else:
            rate = low
        windows.append(trial(rate))
    low, high = _supported(windows, limit_ms)
    if low is None:
        return Estimate(0.0, 0.0, _p99(_at(windows, high)), 0.0, stable=False, windows=tuple(windows))
    same = _at(windows, low)
    p99s = [p99 for each in same if (p99 := _p99([each])) is not None]
    stable = _confirmed(windows, low, plan, limit_ms)
    score = _interpolated(windows, low, high, limit_ms)
    return Estimate(low, score, _p99(same), _range(p99s), stable, tuple(windows))


def closed_estimate(trial: Callable[[], Window], plan: Plan, limit_ms: float) -> Estimate:
    """The throughput of callers that wait for their answers; 0 if the 99th percentile is above the limit.

    Parameters as for `open_estimate`.
    """
    count = plan.search + plan.repeats
    windows = [trial() for _ in range(count)]
    if _range(_throughputs(windows)) > _AGREE:
        windows += [trial() for _ in range(count)]
    last = windows[-count:]
    throughput = sum(len(each.latency_ms) for each in last) / sum(each.seconds for each in last)
    spread = _range(_throughputs(last))
    rate = throughput if _within(last, limit_ms) else 0.0
    return Estimate(rate, rate, _p99(last), spread, spread <= _AGREE, tuple(windows))


def _supported(windows: Sequence[Window], limit_ms: float) -> tuple[float | None, float]:
    """The highest rate whose windows, taken together, are within the limit, and the next one above it, which is not.

    All lower rates must be within the limit, too. The first is None and the second infinite if there is none.
    """
    best = None
    for rate in sorted({each.offered or 0.0 for each in windows}):
        if not _within(_at(windows, rate), limit_ms):
            return best, rate
        best = rate
    return best, math.inf


def _interpolated(windows: Sequence[Window], low: float, high: float, limit_ms: float) -> float:
    """The rate between two tried ones at which the logarithm of the 99th percentile reaches that of the limit."""
    below, above = _p99(_at(windows, low)), _p99(_at(windows, high))
    if below is None or above is None or not below < limit_ms < above:
        return low
    share = math.log(limit_ms / below) / math.log(above / below)
    return low * math.pow(high / low, share)


def _confirmed(windows: Sequence[Window], rate: float, plan: Plan, limit_ms: float) -> bool:
    """Whether a rate was measured again, and each of its windows is within the limit."""
    same = _at(windows, rate)
    return len(same) > plan.repeats and all(_within([each], limit_ms) for each in same)


def _at(windows: Sequence[Window], rate: float) -> list[Window]:
    return [each for each in windows if each.offered == rate]


def _within(windows: Sequence[Window], limit_ms: float) -> bool:
    p99 = _p99(windows)
    return p99 is not None and p99 <= limit_ms and not any(each.lost for each in windows)


def _p99(windows: Sequence[Window]) -> float | None:
    together = [value for each in windows for value in each.latency_ms]
    return quantiles(together)["p99"] if together else None


def _throughputs(windows: Sequence[Window]) -> list[float]:
    return [len(each.latency_ms) / each.seconds for each in windows]


def _range(values: Sequence[float]) -> float:
    """Largest difference relative to the mean."""
    mean = sum(values) / len(values) if values else 0.0
    return (max(values) - min(values)) / mean if mean else 0.0
