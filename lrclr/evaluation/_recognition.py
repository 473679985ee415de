"""Figures of recognition from answers."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lrclr.errors import UsageError
from lrclr.evaluation import _metrics as metrics
from lrclr.evaluation._bootstrap import Ranking, decisions, estimate, mean_of, resampled
from lrclr.evaluation._delong import auroc_interval, mean_interval, placements
from lrclr.evaluation._platt import LEAST_IMAGES
from lrclr.evaluation._result import FindingQuality, MeanQuality
from lrclr.inference import check_alpha
from lrclr.reports import Estimate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from lrclr.evaluation._bootstrap import Resamples, Statistic
    from lrclr.evaluation._scores import Scores

    Floats = NDArray[np.float64]


def fitted(
    scores: Scores, validation: Scores | None, alpha: float | None
) -> tuple[Scores, str, tuple[tuple[float, float], ...]]:
    """Choose alpha.

    Args:
        scores: scores to evaluate.
        validation: answers to fit on, or None.
        alpha: weight of the local score, or None to fit it.

    Returns:
        The scores with the alpha in effect; its origin: "given", "validation", or "model" also where no finding has
        `LEAST_IMAGES` validation images with it and without it; the sweep.

    Raises:
        UsageError: the alpha cannot be used with this model.
    """
    sweep = metrics.sweep_alpha(validation) if validation is not None else ()
    if alpha is not None:
        check_usable_alpha(alpha, trained=scores.fusion_trained)
        return replace(scores, alpha=alpha), "given", sweep
    if sweep and validation is not None and scores.fusion_trained and _has_enough(validation):
        # Of equal ones the lowest, which relies more on the pretrained global score.
        best = max(sweep, key=lambda point: (point[1], -point[0]))
        return replace(scores, alpha=best[0]), "validation", sweep
    return scores, "model", sweep


def _has_enough(validation: Scores) -> bool:
    counts = [(validation.labels == truth).sum(0) for truth in (0, 1)]
    return bool((np.minimum(*counts) >= LEAST_IMAGES).any())


def check_usable_alpha(alpha: float, *, trained: bool) -> None:
    """Raise UsageError if a weight cannot be used."""
    check_alpha(alpha)
    if alpha > 0.0 and not trained:
        raise UsageError(
            f"alpha is {alpha}, but the fusion head is not trained", why="its local scores have no meaning"
        )


def thresholds(scores: Scores, validation: Scores | None, criterion: str) -> list[float | None]:
    """The threshold of each finding, with the calibration in effect."""
    if validation is None:
        return [None] * len(scores.findings)
    probability = validation.probability(scores.alpha)
    return [
        metrics.choose_threshold(validation.labels[:, f], probability[:, f], criterion)
        for f in range(len(scores.findings))
    ]


def recognition(
    scores: Scores, cuts: Sequence[float | None], fitted: Floats | None, draws: Resamples
) -> tuple[tuple[FindingQuality, ...], MeanQuality, dict[str, int]]:
    """Figures of recognition.

    Args:
        scores: scores with the alpha and the calibration in effect.
        cuts: threshold of each finding.
        fitted: ``[F, 2]``, the calibration fitted on validation, or None.
        draws: resamples of the bootstrap.

    Returns:
        Figures of each finding, their means, and by finding the number of resamples that lacked a class.
    """
    rankings = {"auroc": scores.ranking(scores.alpha), "auroc_global": scores.ranking(0.0)}
    if scores.fusion_trained:
        rankings["auroc_local"] = scores.ranking(1.0)
    placed = {
        key: [placements(scores.labels[:, f], ranking[:, f], scores.group) for f in range(len(scores.findings))]
        for key, ranking in rankings.items()
    }
    probability = scores.probability(scores.alpha)
    scaled = None if fitted is None else scores.probability(scores.alpha, fitted)
    points, samples = _figures(scores, rankings["auroc"], probability, cuts, draws)
    few = [metrics.too_few(scores.labels[:, f], scores.group) for f in range(len(scores.findings))]
    skipped = {name: int(np.isnan(samples["average_precision"][f]).sum()) for f, name in enumerate(scores.findings)}
    # As intervals of AUROCs: resamples of one or two patients do not show how much patients differ.
    for figures in samples.values():
        figures[[bool(why) for why in few]] = np.nan
    findings = []
    for f, name in enumerate(scores.findings):
        label = scores.labels[:, f]

        def area(key: str, f: int = f) -> Estimate:
            return auroc_interval(placed[key][f]) if key in placed else Estimate(None)

        def figure(key: str, f: int = f) -> Estimate:
            return estimate(points[key][f], samples[key][f])

        why = metrics.undefined(label)
        best = probability if scaled is None else scaled
        findings.append(
            FindingQuality(
                name=name,
                positives=int((label == 1).sum()),
                negatives=int((label == 0).sum()),
                left_out=int((label < 0).sum()),
                undefined=why,
                no_interval=few[f],
                auroc=area("auroc"),
                average_precision=figure("average_precision"),
                auroc_global=area("auroc_global"),
                auroc_local=area("auroc_local"),
                threshold=cuts[f],
                f1=figure("f1"),
                sensitivity=figure("sensitivity"),
                specificity=figure("specificity"),
                calibration_error=metrics.calibration_error(label, probability[:, f]),
                calibration_error_scaled=None if scaled is None else metrics.calibration_error(label, scaled[:, f]),
                roc=metrics.roc_points(label, rankings["auroc"][:, f]),
                reliability=() if why else metrics.reliability(label, best[:, f]),
            )
        )
    mean = MeanQuality(
        findings=sum(not finding.undefined for finding in findings),
        auroc=mean_interval(placed["auroc"]),
        average_precision=mean_of(points["average_precision"], samples["average_precision"]),
        auroc_global=mean_interval(placed["auroc_global"]),
        auroc_local=mean_interval(placed.get("auroc_local", ())),
        f1=mean_of(points["f1"], samples["f1"]),
        f1_findings=sum(value is not None for value in points["f1"]),
    )
    counted = {each.name for each in findings if not (each.undefined or each.no_interval)}
    return tuple(findings), mean, {name: count for name, count in skipped.items() if count and name in counted}


def _figures(
    scores: Scores, ranking: Floats, probability: Floats, cuts: Sequence[float | None], draws: Resamples
) -> tuple[dict[str, list[float | None]], dict[str, Floats]]:
    """Figures with bootstrap intervals: values ``[F]`` and resamples ``[F, count]`` of the same draws."""
    points: dict[str, list[float | None]] = defaultdict(list)
    statistics: list[Statistic] = []
    decided_names = ("f1", "sensitivity", "specificity")
    every_image = np.ones((1, len(scores)))
    for f in range(len(scores.findings)):
        label = scores.labels[:, f]
        points["average_precision"].append(metrics.average_precision(label, ranking[:, f]))
        statistics.append(Ranking(label, ranking[:, f]).average_precision)
        cut = cuts[f]
        # Without a threshold a finding is never called, and keeps its position.
        decided = decisions(label, probability[:, f] >= (np.inf if cut is None else cut))
        values: list[Any] = decided(every_image)[0].tolist()
        missing = cut is None or bool(metrics.undefined(label))
        for key, value in zip(decided_names, values, strict=True):
            points[key].append(None if missing else value)
        statistics.append(decided)
    drawn = resampled(draws, statistics)
    names = ("average_precision", *decided_names) * len(scores.findings)
    return dict(points), {key: drawn[[i for i, name in enumerate(names) if name == key]] for key in points}
