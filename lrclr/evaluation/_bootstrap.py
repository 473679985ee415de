"""The bootstrap, as weights on images: a resample is how often each image was drawn.

Written so, a resample needs no sorting of its own, and a thousand of them cost seconds. The rank figures are exact,
ties included: they are scikit-learn's on the images that were drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from lrclr.errors import UsageError
from lrclr.evaluation._result import Estimate

__all__ = ["Ranking", "Resamples", "Statistic", "decisions", "estimate", "mean_of", "resampled", "share"]

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]
"""From weights ``[b, N]`` to a figure of each resample ``[b]``, or several ``[b, k]``; NaN where it is undefined."""

_AT_ONCE = 64  # resamples: small enough for the processor's cache
_LEAST = 10  # resamples below which an interval would be a guess
_PERCENTILES = (2.5, 97.5)


@dataclass(frozen=True)
class Resamples:
    """Draws with replacement of patients, each with all their images.

    Attributes:
        group: ``[N]``, each image's patient, numbered from 0 without gaps.
        count: of resamples.
        seed: the same one gives the same draws.
    """

    group: NDArray[np.int64]
    count: int
    seed: int

    def __post_init__(self) -> None:
        if self.count < 0 or self.seed < 0:
            raise UsageError("the bootstrap needs a number of resamples and a seed that are not below 0")

    def __iter__(self) -> Iterator[Floats]:
        """Weights ``[b, N]``, until all resamples were given."""
        patients = int(self.group.max()) + 1
        for start in range(0, self.count, _AT_ONCE):
            size = min(_AT_ONCE, self.count - start)
            drawn = np.random.default_rng([self.seed, start]).integers(0, patients, (size, patients))
            drawn += np.arange(size)[:, None] * patients
            counts = np.bincount(drawn.ravel(), minlength=size * patients).reshape(size, patients)
            yield counts[:, self.group].astype(np.float64)


def resampled(resamples: Resamples, statistics: Sequence[Statistic]) -> Floats:
    """``[S, count]``: every statistic of every resample; all see the same ones."""
    if not statistics:
        return np.empty((0, resamples.count))
    # Everyone once comes first, and is left out again: it tells how many figures there are if there is no resample.
    every = np.ones((1, len(resamples.group)))
    parts = [
        np.column_stack([statistic(weights) for statistic in statistics]).T for weights in chain([every], resamples)
    ]
    return np.concatenate(parts, axis=1)[:, 1:]


def estimate(value: float | None, samples: Floats) -> Estimate:
    """A figure with its 95 % percentile interval; resamples in which it is undefined are skipped.

    There is no interval where nearly all resamples agree, as at perfect separation: one without width would claim
    certainty that the data do not give.
    """
    if value is None:
        return Estimate(None)
    usable = samples[np.isfinite(samples)]
    if len(usable) < _LEAST:
        return Estimate(value)
    low, high = np.percentile(usable, _PERCENTILES)
    if low == high:
        return Estimate(value)
    return Estimate(value, float(low), float(high))


def mean_of(values: Sequence[float | None], samples: Floats) -> Estimate:
    """The mean of several figures ``[S]`` and of their resamples ``[S, count]``.

    Only resamples in which every figure counts that counts at all: otherwise the interval would mix means over
    different findings.
    """
    defined = [s for s, value in enumerate(values) if value is not None]
    if not defined:
        return Estimate(None)
    mean = float(np.mean([value for value in values if value is not None]))
    return estimate(mean, samples[defined].mean(axis=0))


class Ranking:
    """AUROC and average precision of one finding, for any weights.

    Args:
        label: ``[N]``, 1 and 0; other images do not count.
        score: ``[N]``, high where the finding is.
    """

    def __init__(self, label: NDArray[np.int8], score: Floats) -> None:
        used = np.flatnonzero(label >= 0)
        self._index = used[np.argsort(-score[used], kind="stable")]
        self._positive = (label[self._index] == 1).astype(np.float64)
        ordered = score[self._index]
        # Where each run of equal scores begins.
        self._starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])) if len(ordered) else used
        self._tied = len(self._starts) < len(ordered)

    def auroc(self, weights: Floats) -> Floats:
        """``[b]``, of weights ``[b, N]``."""
        return self.both(weights)[:, 0]

    def average_precision(self, weights: Floats) -> Floats:
        """Likewise."""
        return self.both(weights)[:, 1]

    def both(self, weights: Floats) -> Floats:
        """AUROC and average precision ``[b, 2]``; NaN where a class is absent."""
        if len(self._index) == 0:
            return np.full((len(weights), 2), np.nan)
        every = weights[:, self._index]
        positive = every * self._positive
        if self._tied:
            every = np.add.reduceat(every, self._starts, axis=1)
            positive = np.add.reduceat(positive, self._starts, axis=1)
        called, hits = np.cumsum(every, axis=1), np.cumsum(positive, axis=1)
        positives = hits[:, -1]
        negatives = called[:, -1] - positives
        # A negative counts for every positive above it, and half for one that is level.
        above = ((every - positive) * (hits - positive / 2)).sum(axis=1)
        precision = hits / np.maximum(called, 1.0)
        with np.errstate(invalid="ignore", divide="ignore"):
            area = above / (positives * negatives)
            average = (positive * precision).sum(axis=1) / positives
        absent = (positives == 0) | (negatives == 0)
        return np.where(absent[:, None], np.nan, np.stack([area, average], axis=1))


def decisions(label: NDArray[np.int8], called: NDArray[np.bool_]) -> Statistic:
    """F1, sensitivity and specificity ``[b, 3]`` of a decision on each image."""
    positive, negative = label == 1, label == 0
    cells = np.stack([positive & called, positive & ~called, negative & called, negative & ~called], axis=1)

    def figures(weights: Floats) -> Floats:
        hit, missed, false, right = (weights @ cells.astype(np.float64)).T
        absent = (hit + missed == 0) | (false + right == 0)
        with np.errstate(invalid="ignore", divide="ignore"):
            rows = [2 * hit / (2 * hit + false + missed), hit / (hit + missed), right / (right + false)]
        return np.where(absent[:, None], np.nan, np.stack(rows, axis=1))

    return figures


def share(image: NDArray[np.int64], value: Floats) -> Statistic:
    """The mean of values that some of the images have."""

    def mean(weights: Floats) -> Floats:
        drawn = weights[:, image]
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(drawn @ value / drawn.sum(axis=1), np.float64)

    return mean
