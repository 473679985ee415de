"""The search on simulated servers with known capacities: queues with random arrivals and service times."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

# Private: what checks the settings in a manifest.
from lrclr._records import record_from
from lrclr.bundle import ServingSettings
from lrclr.tune import (
    RUNGS,
    Budget,
    Candidate,
    Estimate,
    Factor,
    Plan,
    Space,
    Standing,
    Window,
    closed_estimate,
    factors,
    halving,
    open_estimate,
    rungs_for,
)
from tests.tune.queues import LIMIT_MS, START_SECONDS, Queue, SimulatedBench

LONG = Plan(4, 3, 1.3)
SEEDS = st.integers(0, 10_000)


def space_of(*sizes: int) -> Space:
    """Factors with these numbers of levels."""
    return Space(tuple(Factor(f"f{place}", tuple({"x": level} for level in range(n))) for place, n in enumerate(sizes)))


def multiplied(space: Space, gains: list[list[float]], service_ms: float) -> dict[tuple[int, ...], Queue | None]:
    """A queue for each configuration, whose speed is the product of the gains of its levels."""
    return {
        choice: Queue(4, service_ms / math.prod(gains[place][level] for place, level in enumerate(choice)))
        for choice in itertools.product(*(range(len(each.levels)) for each in space.factors))
    }


def searched(bench: SimulatedBench, seconds: float) -> list[Standing]:
    budget = Budget(seconds, START_SECONDS, bench.now)
    return halving(bench.space, bench.measure, budget, rungs_for(seconds, START_SECONDS, len(bench.space.screening())))


@settings(max_examples=15, derandomize=True)
@given(processes=st.integers(2, 16), service=st.floats(5.0, 30.0), start=st.floats(0.4, 2.0), seed=SEEDS)
def test_the_rate_of_a_queue_is_found(processes: int, service: float, start: float, seed: int) -> None:
    queue = Queue(processes, service)
    true = queue.true_rate()
    seeds = itertools.count(seed)
    found = open_estimate(
        lambda rate: queue.opened(rate, 600 / true, next(seeds)), start * true, Plan(6, 3, 1.5), LIMIT_MS
    )
    assert 0.65 * true <= found.rate <= 1.2 * true
    assert found.p99_ms is not None
    assert found.p99_ms <= LIMIT_MS
    assert all(window.lost == 0 for window in found.windows if window.offered == found.rate)


@pytest.mark.slow
def test_the_search_finds_the_best_configuration() -> None:
    """If the effects of the factors multiply, combinations of single changes contain the best one.

    Windows are short and random, so that a search may miss it. The seeds are fixed.
    """
    rng = np.random.default_rng(1)
    reached = []
    for seed in range(40):
        gains = [[1.0, *rng.uniform(0.7, 1.4, rng.integers(1, 4))] for _ in range(rng.integers(2, 5))]
        space = space_of(*map(len, gains))
        queues = multiplied(space, gains, rng.uniform(10, 25))
        bench = SimulatedBench(space, queues, seed=1000 * seed)
        standings = searched(bench, 480.0)
        assert bench.clock <= 1.25 * 480.0
        speed = {choice: 1 / queue.service_ms for choice, queue in queues.items() if queue is not None}
        # At most three factors are combined.
        best = max(value for choice, value in speed.items() if sum(level > 0 for level in choice) <= 3)
        reached.append(speed[standings[0].choice] / best)
    assert np.median(reached) > 0.98
    assert np.quantile(reached, 0.1) > 0.85


@settings(max_examples=4, derandomize=True)
@given(seed=SEEDS, callers=st.integers(1, 12))
def test_callers_that_wait_get_the_fastest_server(seed: int, callers: int) -> None:
    space = space_of(3, 2)
    queues = multiplied(space, [[1.0, 1.4, 0.7], [1.0, 1.3]], 15.0)
    standings = searched(SimulatedBench(space, queues, callers, seed), 400.0)
    assert standings[0].choice == (1, 1)
    # Callers that never wait for each other are limited by the service time alone.
    service = 15e-3 / 1.4 / 1.3
    assert standings[0].last.rate == pytest.approx(min(callers, 4) / service, rel=0.15)


@settings(max_examples=10, derandomize=True)
@given(seed=SEEDS, seconds=st.floats(20.0, 700.0))
def test_the_time_is_kept_and_the_default_stays(seed: int, seconds: float) -> None:
    space = Space(factors(processors=2, gpu=False, batches=True, max_batch=32, limit_ms=LIMIT_MS))
    rng = np.random.default_rng(seed)
    bench = SimulatedBench(space, {choice: Queue(4, rng.uniform(15, 45)) for choice in _all(space)}, seed=seed)
    standings = searched(bench, seconds)
    assert bench.clock <= 1.35 * seconds + 3 * START_SECONDS
    last = max(standings[0].estimates)
    assert next(each for each in standings if each.choice == space.default).estimates.keys() == {*range(last + 1)}
    # Each round has fewer configurations than the one before, and keeps the better ones.
    counts = [sum(number in each.estimates for each in standings) for number in range(last + 1)]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] >= 2


def test_later_rounds_measure_longer() -> None:
    space = space_of(4, 4, 4)
    bench = SimulatedBench(space, {choice: Queue(4, 15.0) for choice in _all(space)})
    searched(bench, 480.0)
    by_rung = [next(iter(group)) for _, group in itertools.groupby(seconds for _, seconds in bench.measured)]
    windows = [rung.plan.search + rung.plan.repeats for rung in RUNGS]
    times = [seconds * count for seconds, count in zip(by_rung, windows, strict=True)]
    assert times == sorted(times)


def test_a_server_that_does_not_start_is_left_out() -> None:
    space = space_of(3, 2)
    queues = multiplied(space, [[1.0, 2.0, 1.2], [1.0, 0.5]], 15.0)
    queues = {choice: None if choice[0] == 1 else queue for choice, queue in queues.items()}
    standings = searched(SimulatedBench(space, queues), 300.0)
    assert standings[0].choice == (2, 0)
    (failed,) = [each for each in standings if each.choice == (1, 0)]
    assert failed.last.failure == "no room"


def test_a_limit_that_no_server_reaches_ends_the_search_early() -> None:
    space = space_of(3, 2)
    bench = SimulatedBench(space, {choice: Queue(4, 400.0) for choice in _all(space)})
    budget = Budget(400.0, START_SECONDS, bench.now)
    standings = halving(
        space, bench.measure, budget, RUNGS, give_up=lambda found: all(each.last.rate == 0 for each in found)
    )
    assert {each.last.rate for each in standings} == {0.0}
    assert bench.clock < 300.0
    assert standings[0].last.p99_ms is not None


def window(rate: float | None, *latency: float, lost: int = 0) -> Window:
    return Window(rate, 1.0, latency, lost)


def test_a_lost_request_is_not_within_the_limit() -> None:
    found = open_estimate(lambda rate: window(rate, 1.0, 1.0, lost=int(rate > 50)), 40.0, LONG, LIMIT_MS)
    assert 40.0 <= found.rate <= 50.0
    assert found.stable


def test_windows_that_disagree_are_measured_again_and_marked() -> None:
    """Of the windows at a rate, one in three is just beyond the limit, and all taken together are within it."""
    turns = itertools.count()

    def trial(rate: float) -> Window:
        slow = [LIMIT_MS + 1] * (2 if next(turns) % 3 == 2 else 0)
        return window(rate, *[10.0] * 98, *slow)

    plan = Plan(1, 2, 1.3)
    found = open_estimate(trial, 20.0, plan, LIMIT_MS)
    assert found.rate == 20.0
    assert not found.stable
    assert found.spread > 1
    assert len(found.windows) == plan.search + 2 * plan.repeats
    steady = open_estimate(lambda rate: window(rate, 10.0), 20.0, plan, LIMIT_MS)
    assert steady.stable
    assert len(steady.windows) == plan.search + plan.repeats


def test_throughputs_that_disagree_are_measured_again_and_marked() -> None:
    turns = itertools.count()
    plan = Plan(2, 1, 1.0)
    found = closed_estimate(lambda: window(None, *[5.0] * (10 if next(turns) % 2 else 20)), plan, LIMIT_MS)
    assert len(found.windows) == 6
    assert not found.stable
    assert found.rate > 0
    once = itertools.count()
    settled = closed_estimate(lambda: window(None, *[5.0] * (10 if next(once) == 0 else 20)), plan, LIMIT_MS)
    assert settled.stable
    assert settled.rate == 20.0


def test_a_rate_is_not_supported_above_one_that_failed() -> None:
    """A window that passes by chance at a high rate does not count."""
    passes = iter([True, False, True, False, True, True, True, True, True])
    found = open_estimate(lambda rate: window(rate, 1.0 if next(passes) else 500.0), 10.0, Plan(5, 1, 2.0), LIMIT_MS)
    failed = [each.offered or 0.0 for each in found.windows if max(each.latency_ms) > LIMIT_MS]
    assert found.rate < min(failed)


def test_estimates_are_sorted_by_rate_and_then_by_latency() -> None:
    def estimate(rate: float, p99: float | None) -> Estimate:
        return Estimate(rate, rate, p99, 0.0, stable=True, windows=())

    ordered = [
        estimate(20, 90),
        estimate(10, 50),
        estimate(10, 60),
        estimate(0, 120),
        estimate(0, 900),
        estimate(0, None),
    ]
    assert sorted([*reversed(ordered)], key=lambda each: each.key, reverse=True) == ordered


def _all(space: Space) -> list[tuple[int, ...]]:
    return list(itertools.product(*(range(len(each.levels)) for each in space.factors)))


def levels(**changes: Any) -> set[str]:
    """Names of all settings that are changed for a bundle on a machine."""
    options = {"processors": 2, "gpu": False, "batches": True, "max_batch": 32, "limit_ms": 500.0, **changes}
    space = Space(factors(**options))
    return {
        part.rpartition(" ")[0] if "µs" not in part else part
        for one in space.screening()[1:]
        for part in space.name(one).split(", ")
    }


def test_factors_fit_the_bundle_and_the_machine() -> None:
    usual = levels()
    assert {"decoding", "processes", "encoder instances", "encoder threads", "fusion threads"} <= usual
    assert "queue delay 5000 µs" in usual
    assert not any("delay" in name or "preferred" in name for name in levels(batches=False))
    # A delay of 5 ms is too much of 20 ms.
    assert "queue delay 5000 µs" not in levels(limit_ms=20.0)
    assert "queue delay 1000 µs" in levels(limit_ms=20.0)
    assert not any("threads" in name for name in levels(gpu=True))
    assert "preferred batches" not in levels(max_batch=2)
    assert "decoding" not in levels(decoding=("client",))
    for processors in (1, 2, 3, 8, 12, 16, 512):
        space = Space(factors(processors=processors, gpu=False, batches=True, max_batch=32, limit_ms=500.0))
        candidates = [space.candidate(one) for one in space.screening()]
        assert len({*map(str, candidates)}) == len(candidates)
        assert candidates[0] == Candidate(ServingSettings(), "server")
        # The manifest accepts them.
        assert [record_from(one.settings.to_dict(), ServingSettings) for one in candidates]
