"""Platt scaling: scale and bias of each finding, and fits that are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from sklearn.calibration import _SigmoidCalibration
from sklearn.metrics import roc_auc_score

from lrclr import FindingSet
from lrclr.datasets import ImageDataset
from lrclr.evaluation import EvaluationOptions, Selection, evaluate_scores

# Private: the fit is compared with scikit-learn's on invented scores.
from lrclr.evaluation import _metrics as metrics
from lrclr.evaluation._platt import LEAST_IMAGES, fit_calibration, fit_platt
from lrclr.inference import ScoreCalibration

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tests.evaluation.conftest import MakeScores


def labels_of(gap: NDArray[np.float64], scale: float, bias: float, seed: int = 2) -> NDArray[np.int8]:
    draw = np.random.default_rng(seed)
    return (draw.random(gap.shape) < 1 / (1 + np.exp(-(scale * gap + bias)))).astype(np.int8)


@pytest.mark.parametrize(("scale", "bias"), [(0.5, 0.0), (3.0, -2.0), (40.0, 1.5), (900.0, -3.0)])
def test_the_fit_recovers_scale_and_bias(scale: float, bias: float) -> None:
    gap = np.random.default_rng(1).normal(0.3, 2.0, 6000) / scale
    label = labels_of(gap, scale, bias)
    label[:50] = -1
    found = fit_platt(label, gap)
    assert not isinstance(found, str)
    assert found == pytest.approx((scale, bias), rel=0.1, abs=0.15)


@pytest.mark.parametrize("shift", [0.0, 0.03, -5.0])
def test_the_fit_equals_scikit_learns(shift: float) -> None:
    gap = np.random.default_rng(3).normal(size=300) * 0.1
    label = labels_of(gap, 20.0, -1.0)
    expected = _SigmoidCalibration().fit(gap + shift, label)
    found = fit_platt(label, gap + shift)
    # scikit-learn's model is the logistic function of -(a x + b).
    assert found == pytest.approx((-expected.a_, -expected.b_), rel=2e-3, abs=2e-3)


def test_a_score_with_an_offset_is_calibrated() -> None:
    """Without a bias, this score with AUROC 0.96 had a fitted scale of 0.01 and probabilities of 0.5."""
    draw = np.random.default_rng(0)
    label = (draw.random(1000) < 0.3).astype(np.int8)
    gap = 0.03 + 0.01 * (label * 2.5 + draw.normal(size=1000))
    assert roc_auc_score(label, gap) > 0.95
    found = fit_platt(label, gap)
    assert not isinstance(found, str)
    scale, bias = found
    probability = 1 / (1 + np.exp(-(scale * gap + bias)))
    assert probability.min() < 0.01
    assert probability.max() > 0.98
    error = metrics.calibration_error(label, probability)
    assert error is not None
    assert error < 0.03


def test_separated_classes_have_a_finite_fit() -> None:
    label = np.repeat(np.array([0, 1], np.int8), 15)
    found = fit_platt(label, np.linspace(-1, 1, 30))
    assert not isinstance(found, str)
    # Platt's target values are at most 16 of 17.
    probability = 1 / (1 + np.exp(-(found[0] * np.linspace(-1, 1, 30) + found[1])))
    assert 0.9 < probability.max() < 0.9999


@pytest.mark.parametrize(
    ("label", "gap", "reason"),
    [
        (np.arange(40) < LEAST_IMAGES - 1, np.linspace(1, 0, 40), "9 validation images have it and 31 do not"),
        (np.arange(40) < 40, np.linspace(1, 0, 40), "40 validation images have it and 0 do not"),
        (np.arange(40) < 20, np.ones(40), "is the same for all"),
        (np.arange(40) < 20, np.linspace(0, 1, 40), "is lower for"),
        (np.arange(40) % 2 == 0, np.linspace(0, 1, 40), "does not distinguish"),
        (np.arange(40) < 20, np.linspace(1, 0, 40) * 1e-6, "at a bound"),
        (np.arange(40) < 20, np.linspace(1, 0, 40) * 1e5, "at a bound"),
    ],
)
def test_a_misleading_fit_is_refused(label: NDArray[np.bool_], gap: NDArray[np.float64], reason: str) -> None:
    found = fit_platt(label.astype(np.int8), gap)
    assert isinstance(found, str)
    assert reason in found


def test_a_finding_with_few_images_gets_the_shared_values(make_scores: MakeScores) -> None:
    gap = np.random.default_rng(5).normal(size=(400, 3))
    labels = np.stack([labels_of(gap[:, 0], 4.0, -2.0), labels_of(gap[:, 1], 1.0, 1.0), np.full(400, -1)], axis=1)
    labels[:5, 2] = 1
    labels[5:30, 2] = 0
    scores = make_scores(labels, gap)
    fit = fit_calibration(scores, 0.0)
    assert set(fit.own) == {"finding 0", "finding 1"}
    assert "5 validation images have it" in fit.refused["finding 2"]
    assert fit.own["finding 0"] == pytest.approx((4.0, -2.0), rel=0.35)
    assert fit.own["finding 1"] == pytest.approx((1.0, 1.0), rel=0.35)
    assert fit.shared is not None
    assert np.array_equal(fit.applied(scores), [fit.own["finding 0"], fit.own["finding 1"], fit.shared])
    nothing = fit_calibration(make_scores(np.ones((50, 1)), np.ones((50, 1))), 0.0)
    assert not nothing
    assert "50 validation images have it and 0 do not" in nothing.refused[""]


def test_an_ensemble_is_fitted_by_its_mean_probability(make_scores: MakeScores) -> None:
    draw = np.random.default_rng(6)
    gap = draw.normal(size=(2000, 1))
    labels = labels_of(gap, 3.0, -1.0)
    first, second = make_scores(labels, gap + 0.3 * draw.normal(size=gap.shape)), make_scores(labels, gap)
    both = first.joined(second)
    fit = fit_calibration(both, 0.0)
    probability = both.probability(0.0, fit.applied(both))[:, 0]
    error = metrics.calibration_error(labels[:, 0], probability)
    assert error is not None
    assert error < 0.04


def test_a_calibration_applies_to_the_models_own_findings_only() -> None:
    from lrclr import Finding, FindingSet

    own = FindingSet.from_names(["Edema", "Fracture"])
    calibration = ScoreCalibration(2.0, 0.5, {"Edema": (4.0, -1.0)})
    assert ScoreCalibration.from_dict(calibration.to_dict()) == calibration
    assert ScoreCalibration.from_dict({"score_scale": 3}) == ScoreCalibration(3.0)
    assert ScoreCalibration(3.0).to_dict() == {"score_scale": 3.0}
    asked = FindingSet((Finding("Fracture"), Finding("Edema")))
    scale, bias = calibration.of(asked, own)
    assert (scale.tolist(), bias.tolist()) == ([2.0, 4.0], [0.5, -1.0])
    # Other prompts have other scores, for which nothing was fitted.
    scale, bias = calibration.of(FindingSet((Finding("Edema", ("wet lungs",)),)), own)
    assert (scale.tolist(), bias.tolist()) == ([2.0], [0.5])


def test_a_store_keeps_the_values_of_findings_that_are_not_fitted(make_scores: MakeScores) -> None:
    gap = np.random.default_rng(5).normal(size=(400, 5))
    rare = np.arange(400) < 5
    labels = np.stack([labels_of(gap[:, 0], 4.0, -2.0), rare, rare, np.full(400, -2), np.full(400, -1)], axis=1)
    names = ("finding 0", "finding 1", "finding 2", "finding 3", "finding 4", "absent", "absent with own")
    own = {"finding 0": [9.0, 0.0], "finding 1": [8.0, 1.0], "finding 4": [6.0, 3.0], "absent with own": [7.0, 2.0]}
    scores = make_scores(labels, gap, score_scale=2.0, score_bias=0.5, finding_calibration=own)
    scores = replace(scores, calibration=np.array([own.get(name, [2.0, 0.5]) for name in names[:5]]))
    found = FindingSet.from_names(names[:5])
    selection = Selection("", (), (), (), found, names[5:])
    table = ImageDataset(Path("x.csv"), (), names[:5], (), "")
    options = EvaluationOptions(use_fitted=True, resamples=0, alpha=0.0)
    evaluation, judged = evaluate_scores(scores, scores, selection, table, options)
    assert evaluation.score_scale is not None
    assert evaluation.score_bias is not None
    shared = (evaluation.score_scale, evaluation.score_bias)
    present = ScoreCalibration.from_dict(scores.models[0].info)
    stored = present.refitted(shared, evaluation.finding_calibration, evaluation.calibration_kept)
    scale, bias = stored.of(FindingSet.from_names(names), FindingSet.from_names(names))
    expected = [
        evaluation.finding_calibration["finding 0"],
        (8.0, 1.0),
        (evaluation.score_scale, evaluation.score_bias),
        (2.0, 0.5),
        (6.0, 3.0),
        (2.0, 0.5),
        (7.0, 2.0),
    ]
    assert np.stack([scale, bias], axis=1) == pytest.approx(np.array(expected, np.float32))
    # The figures are those of the stored model.
    assert judged.calibration == pytest.approx(np.array(expected[:5]), rel=1e-6)
    assert (
        "the earlier scale and bias stay: finding 1, finding 3, finding 4, absent, absent with own" in evaluation.notes
    )
