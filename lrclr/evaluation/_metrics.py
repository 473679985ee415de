"""Figures of recognition, and the choice of threshold and alpha on validation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from lrclr.evaluation._delong import LEAST_UNITS

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from lrclr.evaluation._scores import Scores

    Floats = NDArray[np.float64]
    Labels = NDArray[np.int8]

ALPHAS: Final = tuple(round(0.05 * step, 2) for step in range(21))
_BINS: Final = 15
_ROC_POINTS: Final = 200


def undefined(label: Labels) -> str:
    """Why the figures of a finding are undefined; "" if they are defined."""
    present, absent = bool((label == 1).any()), bool((label == 0).any())
    if present and absent:
        return ""
    if present:
        return "every labelled image has it"
    return "no labelled image has it" if absent else "no image is labelled for it"


def too_few(label: Labels, group: NDArray[np.int64]) -> str:
    """Why a finding has figures but neither intervals nor tests; "" if both classes are of enough patients.

    Args:
        label: ``[N]``.
        group: ``[N]``, each image's patient, numbered from 0 without gaps.
    """
    for truth, which in ((1, "with it"), (0, "without it")):
        count = len(np.unique(group[label == truth]))
        if 0 < count < LEAST_UNITS:
            return few_units(count, which, group)
    return ""


def few_units(count: int, which: str, group: NDArray[np.int64]) -> str:
    """The reason for missing intervals and tests."""
    return f"only {count} {unit(group)[: None if count > 1 else -1]} {which}; an interval or a test needs {LEAST_UNITS}"


def unit(group: NDArray[np.int64]) -> str:
    """What is independent: "patients", or "images" if each image is of another patient or patients are not given."""
    return "patients" if int(group.max()) + 1 < len(group) else "images"


def auroc(label: Labels, score: Floats) -> float | None:
    """Area under the ROC curve over the images labelled 1 or 0; ``None`` if a class is absent."""
    if undefined(label):
        return None
    used = label >= 0
    return float(roc_auc_score(label[used], score[used]))


def average_precision(label: Labels, score: Floats) -> float | None:
    """Average precision over the images labelled 1 or 0; ``None`` if a class is absent."""
    if undefined(label):
        return None
    used = label >= 0
    return float(average_precision_score(label[used], score[used]))


def mean_auroc(labels: Labels, score: Floats) -> float | None:
    """Mean AUROC over the findings for which it is defined."""
    areas = [auroc(labels[:, f], score[:, f]) for f in range(labels.shape[1])]
    defined = [area for area in areas if area is not None]
    return float(np.mean(defined)) if defined else None


def roc_points(label: Labels, score: Floats) -> tuple[tuple[float, float], ...]:
    """``(false positive rate, true positive rate)``, at most 200 points."""
    if undefined(label):
        return ()
    used = label >= 0
    false, true, _ = roc_curve(label[used], score[used])
    picked = np.unique(np.linspace(0, len(false) - 1, min(len(false), _ROC_POINTS)).round().astype(int))
    return tuple((float(false[i]), float(true[i])) for i in picked)


def _f1(hit: Floats, false: Floats, positives: float, negatives: float) -> Floats:  # noqa: ARG001
    return 2 * hit / (hit + false + positives)


def _youden(hit: Floats, false: Floats, positives: float, negatives: float) -> Floats:
    return hit / positives - false / negatives


def _mcc(hit: Floats, false: Floats, positives: float, negatives: float) -> Floats:
    missed, right, called = positives - hit, negatives - false, hit + false
    spread = called * positives * negatives * (missed + right)
    return np.divide(hit * right - false * missed, np.sqrt(spread), out=np.zeros_like(hit), where=spread > 0)


CRITERIA: Final[dict[str, Callable[[Floats, Floats, float, float], Floats]]] = {
    "f1": _f1,
    "mcc": _mcc,
    "youden": _youden,
}
"""Criteria for a threshold: F1, Matthews' correlation (as CheXzero), or sensitivity + specificity."""


def choose_threshold(label: Labels, probability: Floats, criterion: str) -> float | None:
    """The probability above which a finding counts as present, best by a criterion; ``None`` if a class is absent.

    It is half way between two probabilities, so that rounding in another engine does not change decisions.
    """
    if undefined(label):
        return None
    used = label >= 0
    false, true, least = roc_curve(label[used], probability[used], drop_intermediate=False)
    positives, negatives = float((label == 1).sum()), float((label == 0).sum())
    # Without the first point, at which nothing is called.
    best = 1 + int(np.argmax(CRITERIA[criterion](true[1:] * positives, false[1:] * negatives, positives, negatives)))
    if best + 1 == len(least):
        return float(least[best])
    middle = (float(least[best]) + float(least[best + 1])) / 2
    return middle if middle > least[best + 1] else float(least[best])


def reliability(label: Labels, probability: Floats) -> tuple[tuple[float, float, int], ...]:
    """Mean probability, share of positives and number of images of each non-empty bin; 15 bins of equal width."""
    used = label >= 0
    truth, value = label[used] == 1, probability[used]
    bins = np.minimum((value * _BINS).astype(int), _BINS - 1)
    return tuple(
        (float(value[bins == b].mean()), float(truth[bins == b].mean()), int((bins == b).sum()))
        for b in np.unique(bins)
    )


def calibration_error(label: Labels, probability: Floats) -> float | None:
    """Expected calibration error: mean over bins, weighted by images, of |mean probability - share of positives|."""
    if undefined(label):
        return None
    bins = reliability(label, probability)
    return sum(abs(mean - positives) * images for mean, positives, images in bins) / sum(bin_[2] for bin_ in bins)


def sweep_alpha(validation: Scores) -> tuple[tuple[float, float], ...]:
    """``(alpha, mean AUROC)`` on validation; only for alpha 0 if the fusion head is not trained."""
    alphas = ALPHAS if validation.fusion_trained else (0.0,)
    areas = [(alpha, mean_auroc(validation.labels, validation.ranking(alpha))) for alpha in alphas]
    return tuple((alpha, area) for alpha, area in areas if area is not None)
