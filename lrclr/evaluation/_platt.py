"""Platt scaling: the scale and bias under which the labels of validation images are most probable.

Reference: Platt. Probabilistic outputs for support vector machines and comparisons to regularized likelihood methods.
Advances in Large Margin Classifiers, 1999. His target values, ``(N+ + 1) / (N+ + 2)`` for images that have the finding
and ``1 / (N- + 2)`` for the others, keep the fit finite where the score separates the two.
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

__all__ = ["LEAST_IMAGES", "FittedCalibration", "fit_calibration", "fit_platt"]

LEAST_IMAGES: Final = 10  # with a finding, and without it, below which a fit would follow single images
SCALES: Final = (1e-2, 1e4)
_STEEPEST: Final = 100.0  # in standard deviations of the gap
_TELLS_APART: Final = 3.84  # chi-squared of one degree of freedom at 5 %


@dataclass(frozen=True)
class FittedCalibration:
    """What was fitted on validation.

    Attributes:
        shared: scale and bias fitted on all findings together, for those without values of their own; ``None`` if that
            fit was refused.
        own: scale and bias by finding.
        refused: why a finding has no values of its own, or under "" why there are no shared ones.
    """

    shared: tuple[float, float] | None
    own: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)

    def applied(self, scores: Scores) -> Floats:
        """``[F, 2]``: scale and bias of each finding; those in effect where nothing was fitted."""
        table = np.array(scores.calibration, np.float64)
        for f, name in enumerate(scores.findings):
            pair = self.own.get(name, self.shared)
            if pair is not None:
                table[f] = pair
        return table

    def __bool__(self) -> bool:
        """Whether anything was fitted."""
        return self.shared is not None or bool(self.own)


def fit_calibration(validation: Scores, alpha: float) -> FittedCalibration:
    """Fit each finding for which there is data, and all findings together for the others.

    Args:
        validation: answers for images that are not evaluated.
        alpha: weight of the local score.
    """
    gaps = np.stack([model.gap(alpha) for model in validation.models])
    own: dict[str, tuple[float, float]] = {}
    refused: dict[str, str] = {}
    for f, name in enumerate(validation.findings):
        fit = fit_platt(validation.labels[:, f], gaps[:, :, f])
        if isinstance(fit, str):
            refused[name] = fit
        else:
            own[name] = fit
    shared = fit_platt(validation.labels.ravel(), gaps.reshape(len(gaps), -1))
    if isinstance(shared, str):
        return FittedCalibration(None, own, {**refused, "": shared})
    return FittedCalibration(shared, own, refused)


def fit_platt(label: Labels, gap: Floats) -> tuple[float, float] | str:
    """The scale and bias, or why there are none.

    Args:
        label: ``[N]``, 1 and 0; other images do not count.
        gap: ``[N]``, or ``[models, N]`` for an ensemble whose mean probability is fitted.

    Returns:
        ``(scale, bias)``, or the reason for refusing the fit: too few images, a slope that is not above 0, is not
        different from 0 by the likelihood ratio, or is outside of `SCALES`.
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
    if gain < _TELLS_APART:
        return "its score does not tell the validation images that have it from the others"
    if slope <= 0.0:
        return "its score is lower for the validation images that have it"
    scale = slope / spread
    if not (abs(slope) < _STEEPEST and abs(offset) < _STEEPEST and SCALES[0] < scale < SCALES[1]):
        return "the fit ends at the bound of what is searched"
    return float(f"{scale:.6g}"), float(f"{offset - slope * centre / spread:.6g}")


def _loss(parameters: NDArray[Any], gap: Floats, target: Floats) -> tuple[float, Floats]:
    """Mean negative log likelihood of the mean probability over the models, and its gradient."""
    each = expit(parameters[0] * gap + parameters[1])
    probability = np.clip(each.mean(axis=0), 1e-12, 1.0 - 1e-12)
    value = -(target * np.log(probability) + (1.0 - target) * np.log1p(-probability)).mean()
    outer = (probability - target) / (probability * (1.0 - probability)) / len(target)
    inner = each * (1.0 - each)
    return float(value), np.array([(outer * (inner * gap).mean(axis=0)).sum(), (outer * inner.mean(axis=0)).sum()])
