"""Statistics of samples, compared with their definitions and with known distributions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrclr.bench import interleaved

# Private: reports show these figures rounded, and only for measured times.
from lrclr.bench._interleave import shuffled_rounds
from lrclr.bench._statistics import (
    QUANTILES,
    difference,
    median_interval,
    paired_ratio,
    quantiles,
    ratio_of_medians,
    spread,
    throughput_interval,
)

positive = st.floats(1e-6, 1e6)
several = st.lists(positive, min_size=1, max_size=200)
rounds = st.lists(positive, min_size=3, max_size=30)


@given(several)
def test_a_quantile_is_a_sample_and_has_the_right_share_below(samples: list[float]) -> None:
    found = quantiles(samples)
    for name, share in QUANTILES.items():
        assert found[name] in samples
        assert np.mean(np.array(samples) <= found[name]) >= share - 1e-12
        smaller = [each for each in samples if each < found[name]]
        assert len(smaller) / len(samples) < share
    assert found["max"] == max(samples)


def test_quantiles_of_no_samples_are_missing() -> None:
    with pytest.raises(ValueError, match="no samples"):
        quantiles([])


@settings(max_examples=25, deadline=None)
@given(rounds, st.data())
def test_throughput_is_all_work_divided_by_all_time(seconds: list[float], data: st.DataObject) -> None:
    done = data.draw(st.lists(st.integers(1, 1000), min_size=len(seconds), max_size=len(seconds)))
    found = throughput_interval(done, seconds)
    assert found.value == pytest.approx(sum(done) / sum(seconds))
    assert found.low is not None
    assert found.high is not None
    # Any mixture of rounds lies between the slowest and the fastest of them.
    rates = np.array(done) / np.array(seconds)
    assert rates.min() * (1 - 1e-9) <= found.low <= found.high <= rates.max() * (1 + 1e-9)


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_rounds_have_no_interval(count: int) -> None:
    values = [1.0] * count
    for found in (throughput_interval(values, values), median_interval(values), ratio_of_medians(values, values)):
        assert found.value == 1.0
        assert found.low is None
        assert found.high is None


def test_the_interval_of_a_median_has_its_stated_coverage() -> None:
    generator = np.random.default_rng(5)
    held = 0
    for _ in range(300):
        found = median_interval(generator.lognormal(0.0, 0.3, 15).tolist())
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 1.0 <= found.high
    assert 0.90 <= held / 300 <= 0.99


@settings(max_examples=25, deadline=None)
@given(rounds, st.floats(0.1, 10))
def test_a_constant_ratio_is_found_exactly(values: list[float], factor: float) -> None:
    found = paired_ratio([value * factor for value in values], values)
    assert (found.value, found.low, found.high) == pytest.approx((factor,) * 3)


@settings(max_examples=25, deadline=None)
@given(rounds, rounds, st.floats(0.1, 10))
def test_a_ratio_scales_with_the_measurement(first: list[float], second: list[float], factor: float) -> None:
    plain, scaled = ratio_of_medians(first, second), ratio_of_medians([value * factor for value in first], second)
    assert (scaled.value, scaled.low, scaled.high) == pytest.approx(
        tuple(factor * value for value in (plain.value, plain.low or 0.0, plain.high or 0.0))
    )


def test_false_alarms_are_rare_and_real_differences_are_found() -> None:
    generator = np.random.default_rng(1)
    alarms = 0
    for _ in range(200):
        first, second = generator.lognormal(0, 0.02, (2, 10)).tolist()
        same = ratio_of_medians(first, second)
        slower = ratio_of_medians([1.2 * value for value in first], second)
        assert same.low is not None
        assert slower.low is not None
        alarms += same.low > 1
        assert slower.low > 1.05
    # A one-sided error of a 95 % interval: one in forty.
    assert alarms / 200 < 0.06


@given(several, st.floats(0.01, 0.5))
def test_calm_needs_similar_last_windows(values: list[float], tolerance: float) -> None:
    calm = difference(values) <= tolerance
    assert calm == (len(values) >= 3 and np.ptp(values[-3:]) / np.mean(values[-3:]) <= tolerance)
    assert difference([1e9, *values, 2.0, 2.0, 2.0]) == 0.0


def test_spread_is_the_interquartile_range_over_the_median() -> None:
    assert spread([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(2 / 3)
    assert spread([7.0]) == 0.0


@given(st.integers(1, 8), st.integers(1, 6), st.integers(0, 99))
def test_every_item_runs_once_in_every_round(items: int, count: int, seed: int) -> None:
    turns = list(shuffled_rounds(range(items), count, seed=seed))
    for number in range(count):
        assert sorted(item for round_, item in turns if round_ == number) == list(range(items))
    assert turns == list(shuffled_rounds(range(items), count, seed=seed))


def test_the_order_changes_from_round_to_round() -> None:
    turns = [item for _, item in shuffled_rounds(range(6), 8)]
    assert len({tuple(turns[start : start + 6]) for start in range(0, 48, 6)}) > 4


def test_candidates_are_timed_alternately() -> None:
    calls: list[str] = []
    timings = interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=5, warmup=2)
    assert [sorted(calls[start : start + 2]) for start in range(0, 14, 2)] == [["a", "b"]] * 7
    assert {name: len(seconds) for name, seconds in timings.seconds.items()} == {"a": 5, "b": 5}
    middle, low, high = timings.ratio("a", "b")
    assert low <= middle <= high
