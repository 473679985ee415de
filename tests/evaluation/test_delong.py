"""Intervals and tests hold with few positives. ``benchmarks/results/evaluation`` has the long simulation."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from benchmarks.evaluation.draws import binormal, equal_models
from lrclr.evaluation import compare

# Private: reports show these figures rounded, and only for scored images.
from lrclr.evaluation._delong import auroc_interval, holm, mean_interval, paired_difference, placements

if TYPE_CHECKING:
    from lrclr.evaluation import Estimate


def interval(estimate: Estimate) -> tuple[float, float, float]:
    assert estimate.value is not None
    assert estimate.low is not None
    assert estimate.high is not None
    return estimate.low, estimate.value, estimate.high


@settings(max_examples=60, deadline=None)
@given(images=st.integers(4, 40), levels=st.integers(1, 30), each=st.integers(1, 4), seed=st.integers(0, 2**20))
def test_the_variance_equals_delongs_and_obuchowskis(images: int, levels: int, each: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    label = draw.integers(-1, 2, images).astype(np.int8)
    score = draw.integers(0, levels, images) / levels
    group = np.arange(images) // each
    placed = placements(label, score, group)
    present, absent = np.flatnonzero(label == 1), np.flatnonzero(label == 0)
    if not len(present) or not len(absent):
        assert placed is None
        return
    assert placed is not None
    # Computed pair by pair, as in the definition.
    pairs = (score[present][:, None] > score[absent]) + 0.5 * (score[present][:, None] == score[absent])
    area = pairs.mean()
    assert placed.area == pytest.approx(area)
    assert placed.area == pytest.approx(roc_auc_score(label[label >= 0], score[label >= 0]))
    patients = range(int(group.max()) + 1)
    sums_of_present = np.array([(pairs.mean(1) - area)[group[present] == p].sum() for p in patients])
    sums_of_absent = np.array([(pairs.mean(0) - area)[group[absent] == p].sum() for p in patients])
    m, n = len(set(group[present])), len(set(group[absent]))
    assert (placed.with_positive, placed.with_negative) == (m, n)
    variance = m / max(m - 1, 1) * (sums_of_present**2).sum() / len(present) ** 2
    variance += n / max(n - 1, 1) * (sums_of_absent**2).sum() / len(absent) ** 2
    correction = np.sqrt(m / max(m - 1, 1) * n / max(n - 1, 1))
    variance += 2 * correction * (sums_of_present * sums_of_absent).sum() / len(present) / len(absent)
    assert (placed.influence**2).sum() == pytest.approx(variance, abs=1e-12)
    if min(m, n) < 3:
        found = auroc_interval(placed)
        assert (found.value, found.low, found.high) == (placed.area, None, None)
        return
    low, value, high = interval(auroc_interval(placed))
    assert 0.0 <= low <= value <= high <= 1.0
    assert low < high


@pytest.mark.parametrize(("positives", "least"), [(5, 0.6), (10, 0.75), (50, 0.93)])
def test_perfect_separation_has_an_interval_below_1(positives: int, least: float) -> None:
    label = np.repeat(np.array([1, 0], np.int8), [positives, 200])
    placed = placements(label, label.astype(float), np.arange(len(label)))
    low, value, high = interval(auroc_interval(placed))
    assert (value, high) == (1.0, 1.0)
    assert least < low < 1.0 - 0.5 / positives
    mean_low, mean, mean_high = interval(mean_interval([placed, placed]))
    assert (mean, mean_high) == (1.0, 1.0)
    assert mean_low == pytest.approx(low)


def test_images_of_one_patient_widen_the_interval() -> None:
    label = np.repeat(np.array([1, 0], np.int8), [30, 300])
    score = np.repeat(np.random.default_rng(0).normal(size=110), 3) + label
    apart = auroc_interval(placements(label, score, np.arange(330)))
    together = auroc_interval(placements(label, score, np.arange(330) // 3))
    assert apart.value == together.value
    assert np.ptp(interval(together)) > 1.5 * np.ptp(interval(apart))


@pytest.mark.parametrize(
    ("least", "patients"), [(5, {}), (9, {"each": 3, "correlation": 0.7})], ids=["images", "patients"]
)
def test_intervals_have_their_coverage_with_few_positives(least: int, patients: dict[str, float]) -> None:
    """A coarse check: 250 draws have a standard error of 1.4 points."""
    for area, positives in product((0.7, 0.85, 0.97), (least, 10, 20, 50)):
        draw = np.random.default_rng(4)
        held = 0
        for _ in range(250):
            low, _, high = interval(auroc_interval(placements(*binormal(draw, area, positives, 200, **patients))))  # type: ignore[arg-type]
            held += low <= area <= high
        assert held >= 0.93 * 250, (area, positives)


def test_the_interval_of_a_mean_has_its_coverage() -> None:
    areas = np.linspace(0.7, 0.97, 5)
    draw = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        samples = [placements(*binormal(draw, area, 10, 100, each=2, correlation=0.5)) for area in areas]
        low, _, high = interval(mean_interval([*samples, None]))
        held += low <= areas.mean() <= high
    assert held >= 0.93 * 200


def test_a_finding_of_two_patients_makes_the_interval_of_the_mean_wider() -> None:
    draw, group = np.random.default_rng(0), np.arange(220) // 2
    label = (draw.random(220) < 0.3).astype(np.int8)
    many = placements(label, draw.normal(size=220) + label, group)
    rare = (np.arange(220) < 4).astype(np.int8)
    few = placements(rare, draw.normal(size=220) + rare, group)
    assert many is not None
    assert few is not None
    assert few.with_positive == 2
    low, value, high = interval(mean_interval([many, few]))
    # The AUROC of the second finding may be anything from 0 to 1.
    assert low < value - few.area / 2
    assert high > value + (1.0 - few.area) / 2
    assert mean_interval([few, few]).low is None


def test_equal_models_rarely_differ_significantly() -> None:
    draw = np.random.default_rng(0)
    shown, uncorrected = 0, 0
    for _ in range(100):
        differences = compare(*equal_models(draw, images=300)).differences
        shown += any(each.verdict in ("higher", "lower") for each in differences)
        uncorrected += any(each.p is not None and each.p < 0.05 for each in differences)
    assert shown <= 5
    assert uncorrected > 20


def test_holms_correction() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, None, 0.01]) == [0.5, None, 0.02]
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_difference_from_few_patients_is_uncertain() -> None:
    few, many = np.zeros(100), np.full(100, 0.01)
    few[:3] = 0.1 / np.sqrt(3)
    assert (few**2).sum() == pytest.approx((many**2).sum())
    (_, p_few), (_, p_many) = paired_difference(few, 0.25), paired_difference(many, 0.25)
    assert p_few is not None
    assert p_many is not None
    assert p_many < 0.05 < p_few


def test_a_difference_without_any_distinguishing_patient_has_no_interval() -> None:
    difference, p = paired_difference(np.zeros(4), 0.0)
    assert (difference.low, difference.high, p) == (None, None, None)
