"""Closed loop: each caller calls again as soon as it has its answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, BrokenBarrierError
from typing import Final

LOST: Final = object()
"""Returned by a call that got no answer, and therefore has no latency."""

Work = Callable[[int], object]
"""One call; its number selects the prepared input. Returns when the answer is in host memory, or `LOST`."""

Window = tuple[float, list[float]]
"""Wall time in seconds, and the seconds of each call that was answered."""


def closed_window(work: Work, callers: int, seconds: float, *, least: int = 2) -> Window:
    """Call for some seconds. The first call of each caller does not count: it fills the caches.

    Args:
        work: the call; safe to call from several threads if there are several callers.
        callers: number of threads.
        seconds: time after which no caller calls again.
        least: least number of calls of each caller.
    """
    if callers == 1:
        work(0)
        return _call(work, 0, 1, seconds, least)
    ready = Barrier(callers)

    def caller(number: int) -> Window:
        try:
            work(number)
            ready.wait()
        except BrokenBarrierError:
            # Another caller failed and raises its error.
            return 0.0, []
        except BaseException:
            ready.abort()
            raise
        return _call(work, number, callers, seconds, least)

    with ThreadPoolExecutor(callers) as pool:
        parts = list(pool.map(caller, range(callers)))
    return max(elapsed for elapsed, _ in parts), [each for _, latencies in parts for each in latencies]


def _call(work: Work, first: int, step: int, seconds: float, least: int) -> Window:
    latencies: list[float] = []
    began = now = time.perf_counter()
    number, last = first, first + least * step
    while now - began < seconds or number < last:
        begin = time.perf_counter()
        answer = work(number)
        now = time.perf_counter()
        if answer is not LOST:
            latencies.append(now - begin)
        number += step
    return now - began, latencies
