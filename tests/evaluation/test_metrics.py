"""Thresholds, calibration error, and the choice of alpha."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, matthews_corrcoef, recall_score

# Private: reports show these figures rounded, and only for scored images.
from lrclr.evaluation import _metrics as metrics

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tests.evaluation.conftest import MakeScores


def youden(truth: NDArray[np.int8], called: NDArray[np.bool_]) -> float:
    return float(recall_score(truth, called) + recall_score(1 - truth, ~called) - 1)


SCORE = {"f1": f1_score, "mcc": matthews_corrcoef, "youden": youden}


@settings(max_examples=60, deadline=None)
@given(
    label=st.lists(st.sampled_from([-2, -1, 0, 1]), min_size=2, max_size=25),
    criterion=st.sampled_from(sorted(SCORE)),
    levels=st.integers(1, 40),
    seed=st.integers(0, 999),
)
def test_the_chosen_threshold_is_optimal(label: list[int], criterion: str, levels: int, seed: int) -> None:
    truth = np.array(label, np.int8)
    probability = np.random.default_rng(seed).integers(0, levels, len(truth)) / levels
    cut = metrics.choose_threshold(truth, probability, criterion)
    used = truth >= 0
    if len(set(truth[used].tolist())) < 2:
        assert cut is None
        return
    assert cut is not None
    truth, probability = truth[used], probability[used]
    got = SCORE[criterion](truth, probability >= cut)
    assert got == pytest.approx(max(SCORE[criterion](truth, probability >= t) for t in np.unique(probability)))


def test_a_threshold_lies_between_two_probabilities() -> None:
    label = np.array([0, 0, 1, 1], np.int8)
    assert metrics.choose_threshold(label, np.array([0.1, 0.2, 0.6, 0.7]), "f1") == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("label", "why"),
    [([1, 1, -1], "every labelled image has it"), ([0, -2], "no labelled image"), ([-1, -2], "no image is labelled")],
)
def test_an_absent_class_gives_a_reason_and_no_figures(label: list[int], why: str) -> None:
    truth, score = np.array(label, np.int8), np.linspace(0, 1, len(label))
    assert why in metrics.undefined(truth)
    assert metrics.auroc(truth, score) is None
    assert metrics.average_precision(truth, score) is None
    assert metrics.calibration_error(truth, score) is None
    assert metrics.roc_points(truth, score) == ()
    assert metrics.mean_auroc(truth[:, None], score[:, None]) is None


def test_calibration_error_is_the_mean_distance_of_the_bins() -> None:
    label = np.array([1, 0, 1, 1, -1], np.int8)
    probability = np.array([0.51, 0.52, 0.98, 1.0, 0.1])
    expected = np.array([[0.515, 0.5, 2], [0.99, 1.0, 2]])
    assert np.array(metrics.reliability(label, probability)) == pytest.approx(expected)
    assert metrics.calibration_error(label, probability) == pytest.approx(0.5 * 0.015 + 0.5 * 0.01)


def test_the_alpha_sweep_finds_the_informative_score(make_scores: MakeScores) -> None:
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 2, (300, 2))
    blind, seeing = draw.normal(size=(300, 2)), labels + draw.normal(size=(300, 2))
    sweep = metrics.sweep_alpha(make_scores(labels, blind, seeing))
    assert [alpha for alpha, _ in sweep] == pytest.approx(np.arange(21) / 20)
    assert max(sweep, key=lambda point: point[1])[0] > 0.7
    untrained = metrics.sweep_alpha(make_scores(labels, blind, seeing, trained=False))
    assert [alpha for alpha, _ in untrained] == [0.0]


def test_a_roc_keeps_its_ends_and_a_limited_number_of_points() -> None:
    draw = np.random.default_rng(0)
    points = metrics.roc_points(draw.integers(0, 2, 5000).astype(np.int8), draw.normal(size=5000))
    assert (points[0], points[-1]) == ((0.0, 0.0), (1.0, 1.0))
    assert len(points) <= 200
    assert list(points) == sorted(points)
