"""A simulated server with known capacity: a queue with several processes, to try a search without a real server."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Final

import numpy as np

from lrclr.tune import Estimate, Plan, Space, Window, closed_estimate, open_estimate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lrclr.tune import Choice

LIMIT_MS: Final = 100.0
START_SECONDS: Final = 4.0
_LONG: Final = 8_000  # requests of the window that decides what is true


@dataclass(frozen=True)
class Queue:
    """Processes that take requests from one queue.

    Attributes:
        processes: number of processes.
        service_ms: mean service time; a service takes from half of it to one and a half times it.
        most: requests that are accepted at once; others are lost.
    """

    processes: int
    service_ms: float
    most: int = 40

    def opened(self, rate: float, seconds: float, seed: int) -> Window:
        """Requests at random times."""
        rng = np.random.default_rng(seed)
        gaps = rng.exponential(1 / rate, max(2, int(rate * seconds)))
        services = rng.uniform(0.5, 1.5, len(gaps)) * self.service_ms / 1e3
        free, ends, latency, lost = [0.0] * self.processes, [0.0][:0], [0.0][:0], 0
        for due, service in zip(np.cumsum(gaps).tolist(), services.tolist(), strict=True):
            while ends and ends[0] <= due:
                heapq.heappop(ends)
            if len(ends) >= self.most:
                lost += 1
                continue
            end = max(due, heapq.heappop(free)) + service
            heapq.heappush(free, end)
            heapq.heappush(ends, end)
            latency.append((end - due) * 1e3)
        return Window(rate, seconds, tuple(latency), lost)

    def closed(self, callers: int, seconds: float, seed: int) -> Window:
        """Callers that wait for their answers."""
        rng = np.random.default_rng(seed)
        free, latency = [0.0] * self.processes, [0.0][:0]
        waiting = [0.0] * callers
        while (begin := heapq.heappop(waiting)) < seconds:
            end = max(begin, heapq.heappop(free)) + float(rng.uniform(0.5, 1.5)) * self.service_ms / 1e3
            heapq.heappush(free, end)
            heapq.heappush(waiting, end)
            latency.append((end - begin) * 1e3)
        return Window(None, seconds, tuple(latency))

    def true_rate(self, limit_ms: float = LIMIT_MS) -> float:
        """The highest rate within a limit, by bisection with long windows."""
        return _true_rate(self, limit_ms)


@cache
def _true_rate(queue: Queue, limit_ms: float) -> float:
    low, high = 0.0, queue.processes * 1e3 / queue.service_ms
    for _ in range(9):
        rate = (low + high) / 2
        window = queue.opened(rate, _LONG / rate, seed=0)
        is_within = not window.lost and float(np.quantile(window.latency_ms, 0.99)) <= limit_ms
        low, high = (rate, high) if is_within else (low, rate)
    return low


@dataclass
class SimulatedBench:
    """Measures configurations of a space on queues, with a clock of its own.

    Attributes:
        space: the configurations.
        queues: the queue of each configuration; None for a server that does not start.
        callers: callers that wait for their answers; None for requests at random times.
        seed: seed of arrivals and services.
        clock: seconds so far.
        measured: every configuration that was measured, in order, with the seconds of its windows.
    """

    space: Space
    queues: Mapping[Choice, Queue | None]
    callers: int | None = None
    seed: int = 0
    clock: float = 0.0
    measured: list[tuple[Choice, float]] = field(default_factory=list)

    def now(self) -> float:
        return self.clock

    def measure(self, choice: Choice, plan: Plan, seconds: float, start: float | None) -> Estimate:
        self.clock += START_SECONDS
        self.measured.append((choice, seconds))
        queue = self.queues[choice]
        if queue is None:
            return Estimate.failed("no room")

        def opened(rate: float) -> Window:
            self.clock += seconds
            self.seed += 1
            return queue.opened(rate, seconds, self.seed)

        def closed() -> Window:
            assert self.callers is not None
            self.clock += seconds
            self.seed += 1
            return queue.closed(self.callers, seconds, self.seed)

        if self.callers is not None:
            return closed_estimate(closed, plan, LIMIT_MS)
        return open_estimate(opened, start or 0.5e3 * queue.processes / queue.service_ms, plan, LIMIT_MS)
