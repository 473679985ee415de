"""Closed and open loop with work of a known minimum duration: a sleep never ends before its time."""

from __future__ import annotations

import time
from collections import Counter
from itertools import count
from threading import Barrier, Lock

import numpy as np
import pytest

# Private: the clock and the duration of the work cannot be given to a whole benchmark.
from lrclr.bench._closed import LOST, closed_window
from lrclr.bench._open import arrivals, highest_rate, open_window
from lrclr.errors import EngineError


class SleepingWork:
    """Sleeps, and records the numbers of its calls."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds, self.calls, self._lock = seconds, [0][:0], Lock()

    def __call__(self, number: int) -> None:
        with self._lock:
            self.calls.append(number)
        time.sleep(self.seconds)


@pytest.mark.parametrize("callers", [1, 3])
def test_a_closed_window_omits_the_first_call_of_each_caller(callers: int) -> None:
    work = SleepingWork(0.002)
    elapsed, latencies = closed_window(work, callers, 0.05)
    assert len(latencies) == len(work.calls) - callers
    assert min(latencies) >= 0.002
    # A caller makes one call at a time.
    assert sum(latencies) <= elapsed * callers
    assert elapsed >= 0.05
    assert set(Counter(work.calls).values()) <= {1, 2}


def test_a_slow_call_is_repeated_a_minimum_number_of_times() -> None:
    _, latencies = closed_window(SleepingWork(0.01), 1, 0.001, least=4)
    assert len(latencies) == 4


@pytest.mark.parametrize("callers", [1, 3])
def test_an_error_in_a_window_is_raised(callers: int) -> None:
    def work(number: int) -> None:
        if number > 5:
            raise EngineError("it broke")

    with pytest.raises(EngineError, match="it broke"):
        closed_window(work, callers, 30.0)
    with pytest.raises(EngineError, match="it broke"):
        open_window(work, callers, arrivals(100.0, 0.2, seed=0), 30.0)


@pytest.mark.parametrize("callers", [1, 3])
def test_an_error_before_a_window_is_raised(callers: int) -> None:
    def work(number: int) -> None:
        raise EngineError("it never worked")

    with pytest.raises(EngineError, match="never worked"):
        closed_window(work, callers, 30.0)


def test_arrivals_are_a_poisson_process() -> None:
    many = [arrivals(50.0, 4.0, seed=seed) for seed in range(200)]
    counts = np.array([len(each) for each in many])
    # Mean and variance of the number are both 200, here with standard errors of 1 and 20.
    assert abs(counts.mean() - 200) < 5
    assert 140 < counts.var() < 270
    gaps = np.concatenate([np.diff(each) for each in many])
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.02)
    assert np.mean(gaps > 2 / 50) == pytest.approx(np.exp(-2), abs=0.01)
    assert all(each[0] > 0 and each[-1] < 4.0 for each in many)
    assert np.array_equal(arrivals(50.0, 4.0, seed=3), many[3])
    assert len(arrivals(0.001, 1.0, seed=0)) == 1


def test_latency_is_measured_from_the_due_time() -> None:
    """One slow call makes nine other calls wait. Measured from their start, these nine would take almost no time."""
    due = np.array([0.01 * number for number in range(10)])

    def work(number: int) -> None:
        # The warm-up call comes first and has the number 0, too.
        if number == 0:
            time.sleep(0.3)

    window = open_window(work, 1, due, 2.0)
    assert window.due == len(window.latency) == 10
    for moment, latency in zip(due, window.latency, strict=True):
        assert latency >= 0.3 - moment


def test_two_callers_work_at_the_same_time() -> None:
    # The warm-up call runs alone.
    together, calls = Barrier(4, timeout=60), count()

    def work(number: int) -> None:
        if next(calls) > 0:
            together.wait()

    window = open_window(work, 4, np.array([0.0, 0.001, 0.002, 0.003]), 2.0)
    assert len(window.latency) == 4


def test_saturation_is_detected_and_ends_the_window() -> None:
    work = SleepingWork(0.02)
    window = open_window(work, 1, arrivals(200.0, 1.0, seed=0), 1.0)
    assert window.saturated
    assert len(window.latency) < window.due
    assert max(window.latency) >= 0.4


def test_a_rate_below_capacity_is_not_saturated() -> None:
    window = open_window(SleepingWork(), 2, arrivals(20.0, 2.0, seed=0), 2.0)
    assert not window.saturated
    assert len(window.latency) == window.due
    assert window.seconds >= 2.0


def test_the_highest_rate_is_found_by_bisection() -> None:
    def trial(rate: float) -> tuple[float | None, bool]:
        p99 = 10.0 / (1 - rate / 100)  # waiting time of a queue whose server takes 100 calls a second
        return p99, p99 <= 40.0

    rate, trials = highest_rate(trial, 100.0, steps=12, resolution=0.001)
    assert rate == pytest.approx(75.0, rel=0.002)
    assert all(held == (each <= 75.0) for each, _, held in trials)
    assert len(trials) <= 12


def test_there_may_be_no_rate_that_holds() -> None:
    rate, trials = highest_rate(lambda _: (None, False), 64.0, steps=6)
    assert rate == 0.0
    assert [each for each, _, _ in trials] == [32.0, 16.0, 8.0, 4.0, 2.0, 1.0]


def test_lost_calls_have_no_latency() -> None:
    def work(number: int) -> object:
        return LOST if number % 2 else None

    window = open_window(work, 4, np.array([1e-3 * number for number in range(20)]), 2.0)
    assert (window.due, len(window.latency)) == (20, 10)
    # A window ends although every call is lost.
    assert closed_window(lambda _: LOST, 2, 0.01)[1] == []
