"""Intervals and tests of AUROCs that are valid with few positives, for several images of one patient.

The variance is DeLong's, in Obuchowski's form for clustered data: an AUROC is a mean over patients, whose contributions
vary. With few positives this variance is uncertain, and at perfect separation it is 0. An interval therefore has the
wider limits of two: DeLong's on the logit scale with Student's t, and Newcombe's score interval, which is valid near 1.
``benchmarks/results/evaluation`` shows their coverage.

References:
    DeLong, DeLong, Clarke-Pearson. Biometrics 1988;44:837.
    Obuchowski. Nonparametric analysis of clustered ROC curve data. Biometrics 1997;53:567.
    Newcombe. Confidence intervals for an effect size measure based on the Mann-Whitney statistic, part 2: method 5.
    Statistics in Medicine 2006;25:559.
    Zou, Donner. Construction of confidence limits about effect measures (MOVER). Statistics in Medicine 2008;27:1693.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy.special import expit, logit
from scipy.stats import norm, t

from lrclr.reports import Estimate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

LEVEL: Final = 0.95
LEAST_UNITS: Final = 3  # patients with a finding, and without it, that an interval or a test needs
_Z: Final = float(norm.ppf(0.5 + LEVEL / 2))
_STEPS: Final = 60  # bisections


@dataclass(frozen=True)
class Placements:
    """One AUROC and the contribution of each patient.

    Attributes:
        area: the AUROC.
        positives, negatives: numbers of images.
        positive, negative: ``[patients]``, contribution of the patient's positive and negative images, scaled so that
            the variance of the AUROC is the sum of ``(positive + negative) ** 2``.
        with_positive, with_negative: numbers of patients with a positive and with a negative image.
        design_effect: number of these images that carry as much information as one independent image.
    """

    area: float
    positives: int
    negatives: int
    positive: Floats
    negative: Floats
    with_positive: int
    with_negative: int
    design_effect: float

    @property
    def few(self) -> bool:
        """Whether a class is of too few patients for an interval."""
        return min(self.with_positive, self.with_negative) < LEAST_UNITS

    @property
    def influence(self) -> Floats:
        """Contribution of each patient ``[patients]``; the sum of squares is the variance."""
        return self.positive + self.negative


def placements(label: NDArray[np.int8], score: Floats, group: NDArray[np.int64]) -> Placements | None:
    """The rank of every image among those of the other class; ``None`` if a class is absent.

    Args:
        label: ``[N]``, 1 and 0; other images do not count.
        score: ``[N]``, high for images with the finding.
        group: ``[N]``, each image's patient, numbered from 0 without gaps.
    """
    present, absent = label == 1, label == 0
    if not present.any() or not absent.any():
        return None
    patients = int(group.max()) + 1
    above = _share_below(score[present], score[absent])
    below = 1.0 - _share_below(score[absent], score[present])
    area = float(above.mean())
    positive, with_positive = _per_patient(above - area, group[present], patients)
    negative, with_negative = _per_patient(below - area, group[absent], patients)
    largest = max(len(above) / with_positive, len(below) / with_negative)
    independent = sum(float(((part - area) ** 2).sum()) / max(len(part) - 1, 1) / len(part) for part in (above, below))
    effect = float(((positive + negative) ** 2).sum()) / independent if independent > 0.0 else largest
    effect = min(max(effect, 1.0), largest)
    return Placements(area, len(above), len(below), positive, negative, with_positive, with_negative, effect)


def _share_below(one: Floats, other: Floats) -> Floats:
    """For each value of `one` the share of `other` that is lower; equal values count half."""
    ordered = np.sort(other)
    lower, not_higher = np.searchsorted(ordered, one, "left"), np.searchsorted(ordered, one, "right")
    result: Floats = (lower + not_higher) / (2.0 * len(ordered))
    return result


def _per_patient(deviation: Floats, group: NDArray[np.int64], patients: int) -> tuple[Floats, int]:
    clusters = len(np.unique(group))
    # Bessel's correction, over patients.
    scale = np.sqrt(clusters / max(clusters - 1, 1)) / len(deviation)
    return np.bincount(group, deviation, patients) * scale, clusters


def auroc_interval(placed: Placements | None) -> Estimate:
    """An AUROC with its 95 % interval; without one if a class is of too few patients."""
    if placed is None:
        return Estimate(None)
    if placed.few:
        return Estimate(placed.area)
    limits = [_score_limits(placed)]
    variance = float((placed.influence**2).sum())
    if 0.0 < placed.area < 1.0 and variance > 0.0:
        reach = _quantile(placed) * float(np.sqrt(variance)) / (placed.area * (1.0 - placed.area))
        limits.append((float(expit(logit(placed.area) - reach)), float(expit(logit(placed.area) + reach))))
    return Estimate(placed.area, min(low for low, _ in limits), max(high for _, high in limits))


def _quantile(placed: Placements) -> float:
    """Student's t with Satterthwaite's degrees of freedom."""
    one, other = float((placed.positive**2).sum()), float((placed.negative**2).sum())
    parts = one**2 / max(placed.with_positive - 1, 1) + other**2 / max(placed.with_negative - 1, 1)
    return float(t.ppf(0.5 + LEVEL / 2, max((one + other) ** 2 / parts, 1.0)))


def _score_limits(placed: Placements) -> tuple[float, float]:
    """Newcombe's method 5, with effective numbers of images."""
    m, n = placed.positives / placed.design_effect, placed.negatives / placed.design_effect
    extra = max((m + n) / 2.0 - 1.0, 0.0)

    def covers(area: float) -> bool:
        factor = 1.0 + extra * ((1.0 - area) / (2.0 - area) + area / (1.0 + area))
        return abs(placed.area - area) <= _Z * float(np.sqrt(area * (1.0 - area) * factor / (m * n)))

    return _last_covered(covers, placed.area, 0.0), _last_covered(covers, placed.area, 1.0)


def _last_covered(covers: Callable[[float], bool], inside: float, outside: float) -> float:
    for _ in range(_STEPS):
        middle = (inside + outside) / 2.0
        inside, outside = (middle, outside) if covers(middle) else (inside, middle)
    return inside


def mean_interval(placed: Sequence[Placements | None]) -> Estimate:
    """The mean AUROC of several findings on the same images, with its 95 % interval, by MOVER.

    The limits of the findings are combined with the correlations of their AUROCs. Negative correlations count as 0:
    with few positives they occur by chance. An AUROC without variance, at perfect separation, counts as fully
    correlated with all others.
    """
    known = [each for each in placed if each is not None]
    if not known:
        return Estimate(None)
    each = [auroc_interval(one) for one in known]
    value = np.array([one.value for one in each], np.float64)
    if all(one.few for one in known):
        return Estimate(float(value.mean()))
    below = value - np.array([0.0 if one.low is None else one.low for one in each], np.float64)
    above = np.array([1.0 if one.high is None else one.high for one in each], np.float64) - value
    influence = np.stack([one.influence for one in known])
    deviation = np.sqrt((influence**2).sum(axis=1))
    scale = np.outer(deviation, deviation)
    few = np.array([one.few for one in known])
    estimated = (scale > 0.0) & ~(few[:, None] | few[None])
    together = np.divide(influence @ influence.T, scale, out=np.ones_like(scale), where=estimated).clip(min=0.0)
    mean, count = float(value.mean()), len(known)
    low = mean - float(np.sqrt(max(below @ together @ below, 0.0))) / count
    high = mean + float(np.sqrt(max(above @ together @ above, 0.0))) / count
    return Estimate(mean, max(low, 0.0), min(high, 1.0))


def paired_difference(influence: Floats, value: float) -> tuple[Estimate, float | None]:
    """A difference of two models on the same patients, its 95 % interval, and the p-value of no difference.

    By Student's t. The degrees of freedom follow from the number of patients that distinguish the models: a difference
    that depends on three patients has two.

    Args:
        influence: ``[patients]``, contribution of each patient; the sum of squares is the variance.
        value: the difference.

    Returns:
        The difference and the p-value. If no patient distinguishes the models, there is no interval, and the p-value is
        ``None``.
    """
    variance = float((influence**2).sum())
    if variance == 0.0:
        return Estimate(value), None
    freedom = max(variance**2 / float((influence**4).sum()) - 1.0, 1.0)
    error = float(np.sqrt(variance))
    reach = float(t.ppf(0.5 + LEVEL / 2, freedom)) * error
    return Estimate(value, max(value - reach, -1.0), min(value + reach, 1.0)), float(
        2 * t.sf(abs(value) / error, freedom)
    )


def independent_difference(one: Estimate, other: Estimate) -> tuple[Estimate, float]:
    """As `paired_difference`, but from the intervals of the two figures (MOVER).

    Args:
        one, other: the figures with their intervals.
    """
    values = [each or 0.0 for each in (one.value, one.low, one.high, other.value, other.low, other.high)]
    (value, low, high), (against, least, most) = values[:3], values[3:]
    difference = value - against
    below, above = float(np.hypot(value - low, most - against)), float(np.hypot(high - value, against - least))
    towards_zero = below if difference > 0 else above
    p = float(2 * norm.sf(_Z * abs(difference) / towards_zero))
    return Estimate(difference, max(difference - below, -1.0), min(difference + above, 1.0)), p


def mean_influence(image: NDArray[np.int64], value: Floats, group: NDArray[np.int64]) -> Floats:
    """The influence for `paired_difference` of the mean of a value over some images.

    Args:
        image: indices of these images.
        value: their values.
        group: ``[N]``, every image's patient, numbered from 0 without gaps.
    """
    influence, _ = _per_patient(value - value.mean(), group[image], int(group.max()) + 1)
    return influence


def holm(p: Sequence[float | None]) -> list[float | None]:
    """Holm's adjusted p-values: the chance that any true hypothesis has one below 0.05 is at most 5 %.

    ``None`` stands for an untested hypothesis and does not count.

    Reference: Holm. A simple sequentially rejective multiple test procedure. Scand J Stat 1979;6:65.
    """
    known = sorted((value, place) for place, value in enumerate(p) if value is not None)
    adjusted: list[float | None] = [None] * len(p)
    reached = 0.0
    for rank, (value, place) in enumerate(known):
        reached = max(reached, min(value * (len(known) - rank), 1.0))
        adjusted[place] = reached
    return adjusted
