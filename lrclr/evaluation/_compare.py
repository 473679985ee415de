"""Two models on the same images: the paired bootstrap of their difference."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lrclr.errors import UsageError
from lrclr.evaluation._bootstrap import Ranking, Resamples, estimate, mean_of, resampled, share
from lrclr.evaluation._grounding import located
from lrclr.evaluation._metrics import auroc

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from lrclr.datasets import Row
    from lrclr.evaluation._bootstrap import Statistic
    from lrclr.evaluation._result import Estimate
    from lrclr.evaluation._scores import Scores

__all__ = ["Comparison", "Difference", "compare"]


@dataclass(frozen=True, slots=True)
class Difference:
    """One figure of two models.

    Attributes:
        name: the finding, or "mean".
        figure: which one.
        images: that it is taken from.
        value: of the model that was evaluated; ``None`` where it is not defined.
        against: of the other model.
        difference: `value` less `against`, with the interval of a paired bootstrap: each resample draws the same
            images for both. An interval that holds 0 tells no difference.
    """

    name: str
    figure: Literal["auroc", "pointing"]
    images: int
    value: float | None
    against: float | None
    difference: Estimate


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models on the same images. Research use only.

    Attributes:
        model, against: kind, hash, precision, engine and alpha of the two.
        images: that both answered for.
        resamples, seed: of the bootstrap.
        differences: AUROC of each finding and their mean, then pointing likewise if there are masks.
    """

    model: dict[str, Any]
    against: dict[str, Any]
    images: int
    resamples: int
    seed: int
    differences: tuple[Difference, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def compare(
    scores: Scores,
    against: Scores,
    rows: Sequence[Row] = (),
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Comparison:
    """Compare two models, each with its own alpha in effect.

    Args:
        scores: of the model that was evaluated.
        against: of the other, for the same images in the same order.
        rows: the manifest's, for masks; without them only AUROCs are compared.
        resamples: of the bootstrap.
        seed: of its draws.

    Raises:
        UsageError: other images, other labels, or no finding in common.
    """
    scores.check_same_images(against)
    if scores.models[0].info["exact"] != against.models[0].info["exact"]:
        raise UsageError(
            "the models cannot be compared",
            why="for one of them the images were read in full (--exact), for the other at a lower resolution",
            fix="Evaluate both with --exact, or both without.",
        )
    columns = {name.casefold(): f for f, name in enumerate(against.findings)}
    pairs = [(f, columns[name.casefold()]) for f, name in enumerate(scores.findings) if name.casefold() in columns]
    if not pairs:
        raise UsageError("the two models have no finding in common")
    ours, theirs = (list(column) for column in zip(*pairs, strict=True))
    if not np.array_equal(scores.labels[:, ours], against.labels[:, theirs]):
        raise UsageError("the two models were judged by different labels", fix="Use the same manifest for both.")
    draws = Resamples(scores.group, resamples, seed)
    differences = _aurocs(scores, against, pairs, draws)
    if rows and scores.fusion_trained and against.fusion_trained:
        differences += _pointing(scores, against, rows, draws)
    return Comparison(describe(scores), describe(against), len(scores), resamples, seed, tuple(differences))


def describe(scores: Scores) -> dict[str, Any]:
    """What a report says of a model."""
    info = scores.models[0].info
    shown = {
        key: info[key]
        for key in ("kind", "sha256", "checkpoint_sha256", "precision", "engine", "fusion_trained", "exact")
    }
    if len(scores.models) > 1:
        shown["ensemble"] = [model.info["sha256"] for model in scores.models]
    return {**shown, "alpha": scores.alpha}


def _aurocs(scores: Scores, against: Scores, pairs: Sequence[tuple[int, int]], draws: Resamples) -> list[Difference]:
    mine, other = scores.ranking(scores.alpha), against.ranking(against.alpha)
    names, points, statistics, images = [], [], [], []
    for f, g in pairs:
        label = scores.labels[:, f]
        names.append(scores.findings[f])
        images.append(int((label >= 0).sum()))
        points.append((auroc(label, mine[:, f]), auroc(label, other[:, g])))
        statistics.append(_difference(Ranking(label, mine[:, f]).auroc, Ranking(label, other[:, g]).auroc))
    return _differences("auroc", names, images, points, resampled(draws, statistics))


def _pointing(scores: Scores, against: Scores, rows: Sequence[Row], draws: Resamples) -> list[Difference]:
    mine, other = located(scores, rows), located(against, rows)
    theirs = {each.name.casefold(): each for each in other}
    names, points, statistics, images = [], [], [], []
    for each in mine:
        twin = theirs.get(each.name.casefold())
        if twin is None:
            continue
        names.append(each.name)
        images.append(len(each.image))
        points.append((float(each.pointing.mean()), float(twin.pointing.mean())))
        statistics.append(_difference(share(each.image, each.pointing), share(twin.image, twin.pointing)))
    return _differences("pointing", names, images, points, resampled(draws, statistics)) if names else []


def _difference(one: Statistic, other: Statistic) -> Statistic:
    return lambda weights: one(weights) - other(weights)


def _differences(
    figure: Literal["auroc", "pointing"],
    names: Sequence[str],
    images: Sequence[int],
    points: Sequence[tuple[float | None, float | None]],
    samples: NDArray[np.float64],
) -> list[Difference]:
    gaps = [None if a is None or b is None else a - b for a, b in points]
    result = [
        Difference(name, figure, count, a, b, estimate(gap, drawn))
        for name, count, (a, b), gap, drawn in zip(names, images, points, gaps, samples, strict=True)
    ]
    both = [(a, b) for a, b in points if a is not None and b is not None]
    means = tuple(float(np.mean(column)) for column in zip(*both, strict=True)) if both else (None, None)
    result.append(Difference("mean", figure, max(images), means[0], means[1], mean_of(gaps, samples)))
    return result
