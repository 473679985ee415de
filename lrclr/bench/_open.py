"""Open loop: calls are due at random moments, whether or not earlier ones were answered.

Latency counts from the moment that a call was *due*. Were it counted from its begin, a stall would show in one call
instead of in all that had to wait behind it ("coordinated omission"), and an overloaded service would look quick.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event, Lock
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from lrclr.bench._closed import Work

__all__ = ["OpenWindow", "arrivals", "highest_rate", "open_window"]

_LEAD = 0.02  # seconds before the first call can be due: threads take a moment to start


@dataclass(frozen=True)
class OpenWindow:
    """Calls that were due within some seconds.

    Attributes:
        seconds: from the beginning to the last answer, or to the end of the window if that came later.
        latency: seconds of each call that was made, from when it was due, in that order.
        due: calls that were due.
        saturated: whether the queue kept growing.
    """

    seconds: float
    latency: list[float]
    due: int
    saturated: bool


def arrivals(rate: float, seconds: float, *, seed: int) -> NDArray[np.float64]:
    """Moments of a Poisson process within `seconds`, ascending; at least one."""
    generator = np.random.default_rng(seed)
    count = int(rate * seconds + 6 * (rate * seconds) ** 0.5) + 8
    moments = np.cumsum(generator.exponential(1 / rate, count))
    within = moments[moments < seconds]
    return within if len(within) else np.array([seconds / 2])


def open_window(work: Work, callers: int, due: NDArray[np.float64], seconds: float) -> OpenWindow:
    """Make every call when it is due, or as soon after as a caller is free.

    Calls are given up once one of them waited half of the window: such a queue never shortens again.

    Args:
        work: safe to call from several threads.
        callers: threads: as many calls are under way at most. Those that find none free wait, and their waiting counts.
        due: seconds from the beginning, ascending.
        seconds: of the window.
    """
    lag: list[float | None] = [None] * len(due)
    latency: list[float | None] = [None] * len(due)
    lock, over = Lock(), Event()
    following = iter(range(len(due)))
    work(0)
    began = time.perf_counter() + _LEAD

    def caller(_: int) -> float:
        last = began
        while not over.is_set():
            with lock:
                number = next(following, None)
            if number is None:
                break
            moment = began + due[number]
            # Waited for as an event, so that an error elsewhere ends it at once.
            if over.wait(max(0.0, moment - time.perf_counter())):
                break
            lag[number] = time.perf_counter() - moment
            if lag[number] > seconds / 2:  # type: ignore[operator]
                over.set()
                break
            try:
                work(number)
            except BaseException:
                over.set()
                raise
            last = time.perf_counter()
            latency[number] = last - moment
        return last

    with ThreadPoolExecutor(callers) as pool:
        try:
            finished = max(pool.map(caller, range(callers)))
        except BaseException:
            over.set()
            raise
    made = [each for each in latency if each is not None]
    return OpenWindow(max(seconds, finished - began), made, len(due), over.is_set() or _growing(lag, seconds))


def _growing(lag: list[float | None], seconds: float) -> bool:
    """Whether calls waited longer towards the end than in the first half, and long."""
    waited = np.array([each for each in lag if each is not None])
    if len(waited) < 10:
        return False
    end, before = np.median(waited[-max(3, len(waited) // 10) :]), np.median(waited[: len(waited) // 2])
    return bool(end > 0.05 * seconds and end > 1.5 * before)


def highest_rate(
    trial: Callable[[float], tuple[float | None, bool]], high: float, *, steps: int = 7, resolution: float = 0.03
) -> tuple[float, list[tuple[float, float | None, bool]]]:
    """The highest rate that holds, by bisection between 0 and a rate that is taken not to hold.

    Args:
        trial: from a rate to its p99 in milliseconds, None where it is saturated, and whether it holds.
        high: calls a second that the closed loop reached: no open loop can keep up with more for long.
        steps: at most.
        resolution: share of the rate at which the search may end.

    Returns:
        The highest rate that was seen to hold, 0 if none was; and all trials.
    """
    low, trials = 0.0, []
    for _ in range(steps):
        rate = (low + high) / 2
        p99, holds = trial(rate)
        trials.append((rate, p99, holds))
        low, high = (rate, high) if holds else (low, rate)
        if high - low <= resolution * high:
            break
    return low, trials
