"""Platt scaling: scale and bias that maximise the likelihood of the labels of validation images.

Reference: Platt. Probabilistic outputs for support vector machines and comparisons to regularized likelihood methods.
Advances in Large Margin Classifiers, 1999. His target values, ``(N+ + 1) / (N+ + 2)`` for images with the finding and
``1 / (N- + 2)`` for the others, keep the fit finite if the score separates the two.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from lrclr.evaluation._scores import Scores

    Floats = NDArray[np.float64]
    Labels = NDArray[np.int8]

LEAST_IMAGES: Final = 10  # with a finding, and without it
SCALES: Final = (1e-2, 1e4)
_STEEPEST: Final = 100.0  # in standard deviations of the gap
_LEAST_GAIN: Final = 3.84  # chi-squared of one degree of freedom at 5 %


@dataclass(frozen=True)
class FittedCalibration:
    """Calibration fitted on validation.

    Attributes:
        shared: scale and bias fitted on all findings together, for those without own values; ``None`` if that fit was
            refused.
        own: scale and bias by finding.
        refused: reasons for findings without own values; under "" the reason for missing shared values.
        kept: findings of `refused` that keep their earlier values: those without labels, and those with own ones.
    """

    shared: tuple[float, float] | None
    own: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    kept: tuple[str, ...] = ()

    def applied(self, scores: Scores) -> Floats:
        """Scale and bias of each finding, as `Scores.calibration`; those in effect without a fit, and of `kept`."""
        table = np.array(scores.calibration, np.float64)
        for f, name in enumerate(scores.findings):
            pair = self.own.get(name, None if name in self.kept else self.shared)
            if pair is not None:
                table[..., f, :] = pair
        return table

    def __bool__(self) -> bool:
        """Whether anything was fitted."""
        return self.shared is not None or bool(self.own)


def fit_calibration(validation: Scores, alpha: float) -> FittedCalibration:
    """Fit each finding with enough data, and all findings together for the others.

    Args:
        validation: answers for validation images.
        alpha: weight of the local score.
    """
    gaps = np.stack([model.gap(alpha) for model in validation.models])
    own: dict[str, tuple[float, float]] = {}
    refused: dict[str, str] = {}
    earlier = validation.models[0].info.get("finding_calibration", {})
    kept = []
    for f, name in enumerate(validation.findings):
        fit = fit_platt(validation.labels[:, f], gaps[:, :, f])
        if isinstance(fit, str):
            refused[name] = fit
            if name in earlier or not (validation.labels[:, f] >= 0).any():
                kept.append(name)
        else:
            own[name] = fit
    shared = fit_platt(validation.labels.ravel(), gaps.reshape(len(gaps), -1))
    if isinstance(shared, str):
        return FittedCalibration(None, own, {**refused, "": shared}, tuple(kept))
    return FittedCalibration(shared, own, refused, tuple(kept))


def fit_platt(label: Labels, gap: Floats) -> tuple[float, float] | str:
    """Scale and bias, or the reason why the fit is refused.

    Args:
        label: ``[N]``, 1 and 0; other images do not count.
        gap: ``[N]``, or ``[models, N]`` to fit the mean probability of an ensemble.

    Returns:
        ``(scale, bias)``, or a reason: too few images, or a slope that is not above 0, does not differ from 0 by the
        likelihood ratio, or is outside of `SCALES`.
    """
    used = label >= 0
    truth, gap = label[used] == 1, np.atleast_2d(gap)[:, used].astype(np.float64)
    positives, negatives = int(truth.sum()), int((~truth).sum())
    if min(positives, negatives) < LEAST_IMAGES:
        return f"{positives} validation images have it and {negatives} do not; a fit needs {LEAST_IMAGES} of each"
    target = np.where(truth, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    centre, spread = float(gap.mean()), float(gap.std())
    if not spread > 0.0:
        return "its score is the same for all validation images"
    standard = (gap - centre) / spread
    flat = np.array([0.0, float(logit(target.mean()))])
    found = minimize(
        _loss, [1.0, flat[1]], args=(standard, target), jac=True, method="L-BFGS-B",
        bounds=[(-_STEEPEST, _STEEPEST)] * 2, options={"maxiter": 500, "ftol": 1e-12, "gtol": 1e-8},
    )  # fmt: skip
    slope, offset = (float(value) for value in found.x)
    # Both losses are per image.
    gain = 2 * len(target) * (_loss(flat, standard, target)[0] - float(found.fun))
    if gain < _LEAST_GAIN:
        return "its score does not distinguish the validation images with it from the others"
    if slope <= 0.0:
        return "its score is lower for the validation images with it"
    scale = slope / spread
    if not (abs(slope) < _STEEPEST and abs(offset) < _STEEPEST and SCALES[0] < scale < SCALES[1]):
        return "the fit ends at a bound of the search"
    return float(f"{scale:.6g}"), float(f"{offset - slope * centre / spread:.6g}")


def _loss(parameters: NDArray[Any], gap: Floats, target: Floats) -> tuple[float, Floats]:
    """Mean negative log likelihood of the mean probability over the models, and its gradient."""
    each = expit(parameters[0] * gap + parameters[1])
    probability = np.clip(each.mean(axis=0), 1e-12, 1.0 - 1e-12)
    value = -(target * np.log(probability) + (1.0 - target) * np.log1p(-probability)).mean()
    outer = (probability - target) / (probability * (1.0 - probability)) / len(target)
    inner = each * (1.0 - each)
    return float(value), np.array([(outer * (inner * gap).mean(axis=0)).sum(), (outer * inner.mean(axis=0)).sum()])
