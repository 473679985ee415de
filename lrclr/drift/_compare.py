"""Compares two collections: one test for each finding, each rate and the embeddings, corrected for their number.

References:
    Kolmogorov-Smirnov test of two samples: Hodges. The significance probability of the Smirnov two-sample test. Arkiv
    for Matematik 1958;3:469.
    Population stability index: Yurdakul. Statistical properties of population stability index. 2018.
    Difference of means of embeddings, by permutation: Anderson. A new method for non-parametric multivariate analysis
    of variance. Austral Ecology 2001;26:32.
    Distance of means and its variance: Chen, Qin. A two-sample test for high-dimensional data with applications to
    gene-set testing. Annals of Statistics 2010;38:808.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy.stats import binomtest, fisher_exact, ks_2samp

from lrclr.drift._collection import SCORING
from lrclr.errors import DriftError, UsageError

# Private: intervals and Holm's correction, as in evaluations.
from lrclr.evaluation._delong import auroc_interval, holm, independent_difference, placements
from lrclr.reports import Estimate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lrclr.drift._collection import Collection

FAILED: Final = "no scores"
_LEAST: Final = 20
_BINS: Final = 10
_PERMUTATIONS: Final = 9999
_BATCH: Final = 1000
_NORMAL: Final = 1.96  # 95 %


@dataclass(frozen=True)
class DriftOptions:
    """What counts as drift: a significant difference that is also larger than a limit.

    Attributes:
        level: chance of a false alarm in one comparison of two collections, over all tests.
        distance: limit of the Kolmogorov-Smirnov distance of a finding's probabilities, from 0 to 1.
        rate: limit of the difference of two shares of images.
        explained: limit of the share of the embeddings' variance that is between the collections.
    """

    level: float = 0.01
    distance: float = 0.1
    rate: float = 0.05
    explained: float = 0.01

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not 0.0 <= value < 1.0 or (name == "level" and value == 0.0):
                raise UsageError(f"{name} is {value}", fix="It must be at least 0 and below 1; a level above 0.")


@dataclass(frozen=True)
class FindingDrift:
    """Probabilities of one finding.

    Attributes:
        name: the finding.
        reference, current: quantiles 5, 25, 50, 75 and 95 % of the probabilities.
        higher: chance that a current image has a higher probability than a reference image; 0.5 without drift.
        distance: the largest difference of the two distribution functions.
        stability: population stability index, in tenths of the reference.
        p, adjusted: p-value of the Kolmogorov-Smirnov test, and after Holm's correction.
        drifted: whether this is drift.
    """

    name: str
    reference: tuple[float, ...]
    current: tuple[float, ...]
    higher: Estimate
    distance: float
    stability: float
    p: float
    adjusted: float = 1.0
    drifted: bool = False


@dataclass(frozen=True)
class RateDrift:
    """Share of images with a warning, or without scores.

    Attributes:
        name: code of the warning, or ``"no scores"``.
        reference, current: shares.
        difference: current less reference, by Newcombe's interval.
        p, adjusted: p-value of Fisher's exact test, and after Holm's correction.
        drifted: whether this is drift.
    """

    name: str
    reference: float
    current: float
    difference: Estimate
    p: float
    adjusted: float = 1.0
    drifted: bool = False


@dataclass(frozen=True)
class EmbeddingDrift:
    """Embeddings of images.

    Attributes:
        reference, current: numbers of embeddings that were compared, at most 1,000.
        distance: of their means, without what chance adds to it. Embeddings have length 1.
        explained: share of their variance that is between the collections, from 0 to 1.
        p, adjusted: p-value of 9,999 permutations, and after Holm's correction.
        drifted: whether this is drift.
    """

    reference: int
    current: int
    distance: Estimate
    explained: float
    p: float
    adjusted: float = 1.0
    drifted: bool = False


@dataclass(frozen=True)
class DriftReport:
    """Comparison of two collections.

    Attributes:
        bundle: hash of the manifest of the bundle that scored both.
        reference, current: images with scores.
        shared: images that are in both, by their content.
        repeated: images of the reference and of the current collection that have the content of another one in it.
        options: level and limits.
        findings: one for each finding.
        rates: one for each warning that either collection has, and one for images without scores.
        embeddings: None if a collection has no embeddings.
        unknown: collections of ``"reference"`` and ``"current"`` whose prompts and alpha are not known.
    """

    bundle: str
    reference: int
    current: int
    shared: int
    repeated: tuple[int, int]
    options: DriftOptions
    findings: tuple[FindingDrift, ...]
    rates: tuple[RateDrift, ...]
    embeddings: EmbeddingDrift | None
    unknown: tuple[str, ...] = ()

    @property
    def notes(self) -> list[str]:
        """What a user has to know beside the figures."""
        notes = [f"{self.shared} images are in both collections"] if self.shared else []
        for name, repeated in zip(("reference", "current"), self.repeated, strict=True):
            if repeated:
                notes.append(f"{repeated} {name} images repeat others: p-values are too small")
        if self.unknown:
            notes.append(
                f"prompts and alpha of the {' and the '.join(self.unknown)} scores are not known, and not compared: "
                "give the folder that lrclr score wrote"
            )
        return notes

    @property
    def drifted(self) -> tuple[str, ...]:
        """What drifted: names of findings and rates, and ``"embeddings"``."""
        names = [each.name for each in self.findings if each.drifted]
        names += [each.name for each in self.rates if each.drifted]
        return (*names, *(["embeddings"] if self.embeddings is not None and self.embeddings.drifted else []))

    def to_dict(self) -> dict[str, Any]:
        """The report in JSON's types."""
        return {**asdict(self), "drifted": list(self.drifted), "notes": self.notes}

    def raise_drifted(self) -> None:
        """Raise if there is drift.

        Raises:
            DriftError: something drifted. The text names it.
        """
        if self.drifted:
            raise DriftError(
                f"the current images differ from the reference: {', '.join(self.drifted)}",
                why=f"adjusted p below {self.options.level:g}, and beyond the limit",
            )


def compare(reference: Collection, current: Collection, options: DriftOptions | None = None) -> DriftReport:
    """Compare current images with reference images.

    Each test is valid for independent images. Several images of one patient make p-values too small.

    Raises:
        UsageError: the collections are not of the same bundle, findings, prompts, alpha and way of reading, or have
            fewer than 20 images with scores.
    """
    options = options or DriftOptions()
    _check_comparable(reference, current)
    findings = [
        _finding(name, reference.probability[:, place], current.probability[:, place])
        for place, name in enumerate(reference.findings)
    ]
    rates = [
        _rate(code, (reference.warnings[code], reference.scored), (current.warnings[code], current.scored))
        for code in sorted(reference.warnings.keys() | current.warnings.keys())
    ]
    if reference.failed or current.failed:
        failed = [(each.failed, each.failed + each.scored) for each in (reference, current)]
        rates.append(_rate(FAILED, failed[0], failed[1]))
    embeddings = None
    if reference.embeddings is not None and current.embeddings is not None:
        embeddings = _embeddings(reference.embeddings, current.embeddings)
    p = [each.p for each in findings] + [each.p for each in rates]
    adjusted = iter(holm([*p, *([embeddings.p] if embeddings is not None else [])]))

    def judged(size: float, limit: float) -> dict[str, Any]:
        p = next(adjusted)
        return {"adjusted": p, "drifted": p is not None and p < options.level and abs(size) > limit}

    return DriftReport(
        reference.bundle,
        reference.scored,
        current.scored,
        len(reference.digests & current.digests),
        (reference.scored - len(reference.digests), current.scored - len(current.digests)),
        options,
        tuple(replace(each, **judged(each.distance, options.distance)) for each in findings),
        tuple(replace(each, **judged(each.difference.value or 0.0, options.rate)) for each in rates),
        replace(embeddings, **judged(embeddings.explained, options.explained)) if embeddings is not None else None,
        tuple(name for name, each in (("reference", reference), ("current", current)) if each.settings is None),
    )


def _check_comparable(reference: Collection, current: Collection) -> None:
    if reference.bundle != current.bundle:
        raise UsageError(
            "the collections were scored by different bundles",
            why="a difference of the scores could come from the model",
            fix="Score both with the same bundle.",
        )
    if reference.findings != current.findings:
        raise UsageError("the collections have different findings", fix="Score both with the same findings.")
    if reference.exact != current.exact:
        raise UsageError("one collection was read with --exact and the other without", fix="Read both in the same way.")
    if reference.settings is not None and current.settings is not None:
        other = [words for key, words in SCORING.items() if reference.settings.get(key) != current.settings.get(key)]
        if other:
            raise UsageError(
                f"the collections were scored with another {' and another '.join(other)}",
                why="a difference of the scores could come from the settings",
                fix="Score both with the same settings.",
            )
    both = [each.embeddings for each in (reference, current) if each.embeddings is not None]
    if len({each.shape[1] for each in both}) > 1:
        raise UsageError("the embeddings of the collections have different lengths", why="they are of different models")
    for name, each in (("reference", reference), ("current", current)):
        if each.scored < _LEAST:
            raise UsageError(
                f"the {name} collection is too small",
                why=f"{each.scored} of its images have scores, of at least {_LEAST}",
            )


def _finding(name: str, reference: NDArray[np.float32], current: NDArray[np.float32]) -> FindingDrift:
    one, other = reference.astype(np.float64), current.astype(np.float64)
    label = np.repeat(np.array([0, 1], np.int8), [len(one), len(other)])
    everything = np.concatenate([one, other])
    tested = ks_2samp(one, other, method="asymp")
    return FindingDrift(
        name,
        _quantiles(one),
        _quantiles(other),
        auroc_interval(placements(label, everything, np.arange(len(label)))),
        float(tested.statistic),
        _stability(one, other),
        float(tested.pvalue),
    )


def _quantiles(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(np.quantile(values, (0.05, 0.25, 0.5, 0.75, 0.95)).tolist())


def _stability(reference: NDArray[np.float64], current: NDArray[np.float64]) -> float:
    edges = np.unique(np.quantile(reference, np.linspace(0, 1, _BINS + 1)[1:-1]))
    counts = [
        np.bincount(np.searchsorted(edges, values, "right"), minlength=len(edges) + 1)
        for values in (reference, current)
    ]
    # Half an image more in each bin: an empty bin would make the index infinite.
    shares = [(count + 0.5) / (count.sum() + 0.5 * len(count)) for count in counts]
    return float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())


def _rate(name: str, reference: tuple[int, int], current: tuple[int, int]) -> RateDrift:
    shares = []
    for count, images in (reference, current):
        interval = binomtest(count, images).proportion_ci(method="wilson")
        shares.append(Estimate(count / images, float(interval.low), float(interval.high)))
    difference, _ = independent_difference(shares[1], shares[0])
    table = [[count, images - count] for count, images in (reference, current)]
    return RateDrift(
        name, reference[0] / reference[1], current[0] / current[1], difference, float(fisher_exact(table).pvalue)
    )


def _embeddings(reference: NDArray[np.float32], current: NDArray[np.float32]) -> EmbeddingDrift:
    everything = np.concatenate([reference, current]).astype(np.float64)
    everything -= everything.mean(axis=0)
    total = float((everything**2).sum())
    size, first = len(everything), len(reference)
    random = np.random.default_rng(0)
    observed = _between(everything, np.arange(size)[None] < first, total)[0]
    reached = 0
    for start in range(0, _PERMUTATIONS, _BATCH):
        count = min(_BATCH, _PERMUTATIONS - start)
        labels = random.permuted(np.tile(np.arange(size) < first, (count, 1)), axis=1)
        # Without the tolerance, rounding could hide a permutation that repeats the observed order.
        reached += int((_between(everything, labels, total) >= observed - 1e-12).sum())
    p = (1 + reached) / (1 + _PERMUTATIONS)
    return EmbeddingDrift(first, len(current), _distance(everything[:first], everything[first:]), float(observed), p)


def _distance(one: NDArray[np.float64], other: NDArray[np.float64]) -> Estimate:
    """Distance of the means of two groups ``[N, D]``, with an interval by the normal approximation of its square."""
    difference = one.mean(axis=0) - other.mean(axis=0)
    covariance = np.cov(one.T) / len(one) + np.cov(other.T) / len(other)
    # Means of samples differ by chance; the trace is what this adds to the square on average.
    square = float(difference @ difference - np.trace(covariance))
    variance = float(4 * difference @ covariance @ difference + 2 * (covariance**2).sum())
    margin = _NORMAL * math.sqrt(variance)
    low, value, high = (math.sqrt(max(each, 0.0)) for each in (square - margin, square, square + margin))
    return Estimate(value, low, high)


def _between(everything: NDArray[np.float64], label: NDArray[np.bool_], total: float) -> NDArray[np.float64]:
    """Share of the variance between two groups, for each row of `label`. `everything` is centred."""
    first = label.sum(axis=1)
    sums = label.astype(np.float64) @ everything
    # The sums of the two groups are opposite, since the mean of all is 0.
    squares = (sums**2).sum(axis=1) * (1 / first + 1 / (label.shape[1] - first))
    share: NDArray[np.float64] = squares / total if total > 0.0 else np.zeros(len(label))
    return share
