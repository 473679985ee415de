"""Open loop: calls are due at random times, whether or not earlier ones were answered.

Latency counts from when a call was *due*. Counted from its begin, a stall would show in one call instead of in all
calls that wait behind it ("coordinated omission"), and an overloaded service would look fast.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event, Lock
from typing import TYPE_CHECKING

import numpy as np

from lrclr.bench._closed import LOST

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from lrclr.bench._closed import Work

_LEAD = 0.02  # seconds before the first call can be due: threads take a moment to start


@dataclass(frozen=True)
class OpenWindow:
    """One window of open loop.

    Attributes:
        seconds: time from the beginning to the last answer, or to the end of the window if that is later.
        latency: seconds of each call that was answered, from when it was due.
        due: number of calls that were due.
        saturated: whether the queue kept growing.
    """

    seconds: float
    latency: list[float]
    due: int
    saturated: bool


def arrivals(rate: float, seconds: float, *, seed: int) -> NDArray[np.float64]:
    """Times of a Poisson process within `seconds`, ascending; at least one."""
    generator = np.random.default_rng(seed)
    count = int(rate * seconds + 6 * (rate * seconds) ** 0.5) + 8
    moments = np.cumsum(generator.exponential(1 / rate, count))
    within = moments[moments < seconds]
    return within if len(within) else np.array([seconds / 2])


def open_window(work: Work, callers: int, due: NDArray[np.float64], seconds: float) -> OpenWindow:
    """Make every call when it is due, or as soon as a caller is free.

    The remaining calls are given up when a call has waited for half of the window: such a queue does not recover.

    Args:
        work: the call; safe to call from several threads.
        callers: number of threads, the most concurrent calls. The time that a call waits for one counts.
        due: times in seconds from the beginning, ascending.
        seconds: length of the window.
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
            # Wait for the event, so that an error of another caller ends the wait.
            if over.wait(max(0.0, moment - time.perf_counter())):
                break
            lag[number] = time.perf_counter() - moment
            if lag[number] > seconds / 2:  # type: ignore[operator]
                over.set()
                break
            try:
                answer = work(number)
            except BaseException:
                over.set()
                raise
            last = time.perf_counter()
            if answer is not LOST:
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
    """Whether calls waited long, and longer at the end than in the first half."""
    waited = np.array([each for each in lag if each is not None])
    if len(waited) < 10:
        return False
    end, before = np.median(waited[-max(3, len(waited) // 10) :]), np.median(waited[: len(waited) // 2])
    return bool(end > 0.05 * seconds and end > 1.5 * before)


def highest_rate(
    trial: Callable[[float], tuple[float | None, bool]], high: float, *, steps: int = 7, resolution: float = 0.03
) -> tuple[float, list[tuple[float, float | None, bool]]]:
    """The highest rate that passes, by bisection between 0 and a rate that is assumed to fail.

    Args:
        trial: from a rate to its p99 in milliseconds, None if saturated, and whether it passes.
        high: calls a second of the closed loop: an open loop cannot sustain more.
        steps: most trials.
        resolution: share of the rate at which the search ends.

    Returns:
        The highest rate that passed, or 0; and all trials.
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
