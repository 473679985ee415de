"""Figures of the bootstrap equal scikit-learn's on the drawn images. It draws patients, not images."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score, recall_score, roc_auc_score

# Private: reports show these figures rounded, and only for scored images.
from lrclr.evaluation._bootstrap import Ranking, Resamples, decisions, estimate, mean_of, resampled, share

if TYPE_CHECKING:
    from numpy.typing import NDArray


@settings(max_examples=60, deadline=None)
@given(data=st.data(), images=st.integers(2, 40), levels=st.integers(1, 30), seed=st.integers(0, 2**20))
def test_figures_of_a_resample_equal_scikit_learns(data: st.DataObject, images: int, levels: int, seed: int) -> None:
    label = np.array(data.draw(st.lists(st.sampled_from([-2, -1, 0, 1]), min_size=images, max_size=images)), np.int8)
    score = np.random.default_rng(seed).integers(0, levels, images) / levels - 0.5
    called = score >= 0
    draws = Resamples(np.arange(images), 8, seed)
    (weights,) = list(draws)
    both, decided = Ranking(label, score).both(weights), decisions(label, called)(weights)
    for row in range(8):
        drawn = np.repeat(np.arange(images), weights[row].astype(int))
        assert len(drawn) == images
        drawn = drawn[label[drawn] >= 0]
        truth = label[drawn]
        if len(set(truth.tolist())) < 2:
            assert np.isnan(both[row]).all()
            assert np.isnan(decided[row]).all()
            continue
        expected = [roc_auc_score(truth, score[drawn]), average_precision_score(truth, score[drawn])]
        assert both[row] == pytest.approx(expected, abs=1e-12)
        predicted = called[drawn].astype(int)
        rates = [
            f1_score(truth, predicted, zero_division=0),
            recall_score(truth, predicted),
            recall_score(1 - truth, 1 - predicted),
        ]
        assert decided[row] == pytest.approx(rates, abs=1e-12)


def test_draws_depend_on_the_seed_and_keep_patients_together() -> None:
    group = np.array([0, 1, 1, 2, 2, 2])

    def weights(seed: int) -> NDArray[np.float64]:
        return np.concatenate(list(Resamples(group, 150, seed)))

    drawn = weights(3)
    assert drawn.shape == (150, 6)
    assert np.array_equal(drawn, weights(3))
    assert not np.array_equal(drawn, weights(4))
    assert np.array_equal(drawn[:, 1], drawn[:, 2])
    assert np.array_equal(drawn[:, 3], drawn[:, 5])
    assert (drawn[:, [0, 1, 3]].sum(axis=1) == 3).all()
    # More resamples continue the sequence of fewer resamples.
    assert np.array_equal(np.concatenate(list(Resamples(group, 64, 3))), drawn[:64])


def test_all_statistics_use_the_same_resamples() -> None:
    draws = Resamples(np.arange(20), 70, 0)
    value = np.arange(20.0)
    once = share(np.arange(20), value)
    both = resampled(draws, [once, lambda weights: np.stack([once(weights), -once(weights)], axis=1)])
    assert both.shape == (3, 70)
    assert np.array_equal(both[0], both[1])
    assert np.array_equal(both[0], -both[2])
    assert np.ptp(both[0]) > 0
    assert resampled(draws, []).shape == (0, 70)
    assert resampled(Resamples(np.arange(20), 0, 0), [once]).shape == (1, 0)


def test_an_interval_skips_resamples_without_a_class() -> None:
    samples = np.append(np.linspace(0, 1, 101), [np.nan] * 50)
    got = estimate(0.5, samples)
    assert (got.value, got.low, got.high) == pytest.approx((0.5, 0.025, 0.975))
    assert estimate(None, samples).value is None
    assert estimate(0.5, np.full(1000, np.nan)).low is None
    few = estimate(0.5, samples[-55:])
    assert (few.value, few.low) == (0.5, None)


def test_a_mean_uses_the_same_findings_in_every_resample() -> None:
    first, second = np.linspace(0, 1, 50), np.full(50, 0.2)
    broken = np.where(np.arange(50) % 2, np.nan, first)
    got = mean_of([0.5, 0.2, None], np.stack([broken, second, np.full(50, np.nan)]))
    assert got.value == pytest.approx(0.35)
    assert got.low == pytest.approx(np.percentile((first[::2] + 0.2) / 2, 2.5))
    assert mean_of([None], np.full((1, 50), np.nan)).value is None


def test_the_interval_of_an_auroc_has_the_expected_width() -> None:
    """The expected width follows from Hanley and McNeil's standard error for two normal distributions."""
    draw = np.random.default_rng(0)
    label = (np.arange(600) < 200).astype(np.int8)
    score = draw.normal(size=600) + label
    samples, _ = resampled(Resamples(np.arange(600), 1000, 1), [Ranking(label, score).both])
    area = roc_auc_score(label, score)
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    expected = math.sqrt((area * (1 - area) + 199 * (q1 - area**2) + 399 * (q2 - area**2)) / (200 * 400))
    assert samples.std() == pytest.approx(expected, rel=0.15)
    interval = estimate(area, samples)
    assert interval.low is not None
    assert interval.low < area
