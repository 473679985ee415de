"""Paired differences of two models on the same images, corrected for multiple comparisons."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lrclr.errors import UsageError
from lrclr.evaluation._delong import (
    LEVEL,
    auroc_interval,
    holm,
    independent_difference,
    mean_influence,
    paired_difference,
    placements,
)
from lrclr.evaluation._grounding import located
from lrclr.evaluation._grounding import too_few as too_few_located
from lrclr.evaluation._metrics import too_few, undefined
from lrclr.reports import Estimate
from lrclr.text import finding_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from lrclr.datasets import Row
    from lrclr.evaluation._scores import Scores

Verdict = Literal["higher", "lower", "no difference shown", "not defined"]


@dataclass(frozen=True, slots=True)
class Difference:
    """One figure of two models.

    Attributes:
        name: the finding, or "mean".
        figure: name of the figure.
        images: number of images.
        value: figure of the evaluated model; ``None`` if it is not defined.
        against: figure of the other model.
        difference: `value` minus `against`, with a 95 % interval for this difference alone; see `paired_difference`.
        p: p-value of this difference alone; ``None`` if no image distinguishes the models.
        p_family: Holm's p-value over all differences of the comparison: if no difference is real, the chance that any
            is below 0.05 is at most 5 %.
        verdict: "higher" or "lower" if `p_family` is below 0.05. "no difference shown" does not mean that the models
            are equal: the interval gives the differences that are still possible. "not defined" if there is no test.
        reason: why the verdict is "not defined".
        findings: number of findings in the mean; those without a test are not in it.
    """

    name: str
    figure: Literal["auroc", "pointing"]
    images: int
    value: float | None
    against: float | None
    difference: Estimate
    p: float | None = None
    p_family: float | None = None
    verdict: Verdict = "no difference shown"
    reason: str = ""
    findings: int = 1


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models on the same images. Research use only.

    Attributes:
        model, against: kind, hash, precision, engine and alpha of the two models.
        images: number of images.
        differences: AUROC of each finding and their mean, then the pointing game in the same way if there are masks.
    """

    model: dict[str, Any]
    against: dict[str, Any]
    images: int
    differences: tuple[Difference, ...]

    def to_dict(self) -> dict[str, Any]:
        """The comparison in JSON's types."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Contrast:
    """A figure of two models, and each patient's contribution to the difference; ``None`` if there is no test."""

    figure: Literal["auroc", "pointing"]
    name: str
    images: int
    value: float | None
    against: float | None
    influence: NDArray[np.float64] | None
    wide: tuple[Estimate, float] | None = None
    reason: str = ""
    findings: int = 1

    def tested(self) -> tuple[Estimate, float | None]:
        """The difference with its interval, and the p-value."""
        if self.wide is not None:
            return self.wide
        if self.value is None or self.against is None:
            return Estimate(None), None
        if self.influence is None:
            return Estimate(self.value - self.against), None
        return paired_difference(self.influence, self.value - self.against)


def compare(scores: Scores, against: Scores, rows: Sequence[Row] = ()) -> Comparison:
    """Compare two models, each with its own alpha in effect.

    Args:
        scores: scores of the evaluated model.
        against: scores of the other model for the same images in the same order.
        rows: rows of the dataset with masks; without them only AUROCs are compared.

    Raises:
        UsageError: images or labels differ, or the models have no finding in common.
    """
    scores.check_same_images(against)
    if scores.models[0].info["exact"] != against.models[0].info["exact"]:
        raise UsageError(
            "the models cannot be compared",
            why="the images were read in full (--exact) for one of them, and at a lower resolution for the other",
            fix="Evaluate both with --exact, or both without.",
        )
    columns = {finding_key(name): f for f, name in enumerate(against.findings)}
    pairs = [(f, columns[finding_key(name)]) for f, name in enumerate(scores.findings) if finding_key(name) in columns]
    if not pairs:
        raise UsageError("the two models have no finding in common")
    ours, theirs = (list(column) for column in zip(*pairs, strict=True))
    if not np.array_equal(scores.labels[:, ours], against.labels[:, theirs]):
        raise UsageError("the labels of the two models differ", fix="Use the same dataset for both.")
    contrasts = _with_mean(_aurocs(scores, against, pairs))
    if rows and scores.fusion_trained and against.fusion_trained:
        contrasts += _with_mean(_pointing(scores, against, rows))
    return Comparison(describe(scores), describe(against), len(scores), _judged(contrasts))


def describe(scores: Scores) -> dict[str, Any]:
    """Facts about a model for a report."""
    info = scores.models[0].info
    shown = {
        key: info[key]
        for key in ("kind", "sha256", "checkpoint_sha256", "precision", "engine", "fusion_trained", "exact")
    }
    if len(scores.models) > 1:
        # The members of one bundle have its hash in common.
        hashes = [model.info["sha256"] for model in scores.models]
        of_one = len(set(hashes)) == 1
        shown["ensemble"] = [model.info["checkpoint_sha256"] for model in scores.models] if of_one else hashes
    return {**shown, "alpha": scores.alpha}


def _aurocs(scores: Scores, against: Scores, pairs: Sequence[tuple[int, int]]) -> list[_Contrast]:
    mine, other = scores.ranking(scores.alpha), against.ranking(against.alpha)
    contrasts = []
    for f, g in pairs:
        label = scores.labels[:, f]
        images = int((label >= 0).sum())
        one, two = (placements(label, ranking, scores.group) for ranking in (mine[:, f], other[:, g]))
        if one is None or two is None:
            contrasts.append(_Contrast("auroc", scores.findings[f], images, None, None, None, reason=undefined(label)))
            continue
        if few := too_few(label, scores.group):
            contrasts.append(_Contrast("auroc", scores.findings[f], images, one.area, two.area, None, reason=few))
            continue
        influence = one.influence - two.influence
        wide = None
        if not influence.any() and not one.influence.any():
            # Neither has variance, as at perfect separation.
            wide = independent_difference(auroc_interval(one), auroc_interval(two))
        contrasts.append(_Contrast("auroc", scores.findings[f], images, one.area, two.area, influence, wide))
    return contrasts


def _pointing(scores: Scores, against: Scores, rows: Sequence[Row]) -> list[_Contrast]:
    theirs = {finding_key(each.name): each for each in located(against, rows)}
    contrasts = []
    for each in located(scores, rows):
        twin = theirs.get(finding_key(each.name))
        if twin is None:
            continue
        few = too_few_located(each.image, scores.group)
        difference = each.figures["pointing"] - twin.figures["pointing"]
        influence = None if few else mean_influence(each.image, difference, scores.group)
        values = each.mean("pointing"), twin.mean("pointing")
        contrasts.append(_Contrast("pointing", each.name, len(each.image), *values, influence, reason=few))
    return contrasts


def _with_mean(contrasts: list[_Contrast]) -> list[_Contrast]:
    """The contrasts, then their mean over the findings that can be tested."""
    if not contrasts:
        return []
    images = max(each.images for each in contrasts)
    known = [each for each in contrasts if each.influence is not None]
    if not known:
        why = "no finding can be tested"
        return [*contrasts, _Contrast(contrasts[0].figure, "mean", images, None, None, None, reason=why, findings=0)]
    value, against = (float(np.mean([getattr(each, side) for each in known])) for side in ("value", "against"))
    influence = np.mean([each.influence for each in known if each.influence is not None], axis=0)
    mean = _Contrast(contrasts[0].figure, "mean", images, value, against, influence, findings=len(known))
    return [*contrasts, mean]


def _judged(contrasts: Sequence[_Contrast]) -> tuple[Difference, ...]:
    """Differences with p-values corrected over all of them."""
    tested = [each.tested() for each in contrasts]
    adjusted = holm([p for _, p in tested])
    return tuple(
        Difference(
            each.name, each.figure, each.images, each.value, each.against, difference, p, p_family,
            "not defined" if each.reason else _verdict(difference.value, p_family), each.reason, each.findings,
        )
        for each, (difference, p), p_family in zip(contrasts, tested, adjusted, strict=True)
    )  # fmt: skip


def _verdict(value: float | None, p: float | None) -> Verdict:
    if value is None or p is None or p >= 1.0 - LEVEL:
        return "no difference shown"
    return "higher" if value > 0 else "lower"
