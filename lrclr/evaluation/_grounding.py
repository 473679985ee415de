"""Grounding: selected regions against masks. Pointing game, hit rate and mass, beside chance and rollout."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lrclr.datasets import PRESENT, patch_coverage, row_mask
from lrclr.errors import LrclrError
from lrclr.evaluation._bootstrap import estimate, mean_of, resampled, share
from lrclr.evaluation._delong import LEAST_UNITS
from lrclr.evaluation._metrics import few_units
from lrclr.evaluation._result import Grounding
from lrclr.preprocessing import PreprocessSpec
from lrclr.reports import Estimate
from lrclr.text import finding_key

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from lrclr.datasets import Row
    from lrclr.evaluation._bootstrap import Resamples
    from lrclr.evaluation._scores import Scores

    Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Located:
    """One finding in all images that have it and a mask or box of it.

    Attributes:
        name: the finding.
        image: ``[n]``, indices of the images in the scores.
        figures: values ``[n]`` of each figure, by its name in `place`.
    """

    name: str
    image: NDArray[np.int64]
    figures: Mapping[str, Floats]

    def mean(self, figure: str) -> float:
        """Mean of a figure over the images."""
        return float(self.figures[figure].mean())


def place(coverage: Floats, attention: Floats, importance: Floats, selected: NDArray[np.bool_]) -> dict[str, float]:
    """Figures of one finding in one image; `Grounding` has their means.

    Args:
        coverage: ``[patches]``, share of each patch that the mask covers.
        attention: ``[patches]``, region attention, summed over the heads that selected the patch.
        importance: ``[patches]``, importance, summed in the same way.
        selected: ``[patches]``, whether the patch is selected.
    """
    touches = coverage > 0
    patches, touching, picked = len(coverage), int(touches.sum()), int(selected.sum())
    return {
        "pointing": float(touches[attention.argmax()]),
        "pointing_rollout": float(touches[importance.argmax()]),
        "pointing_chance": touching / patches,
        "hit": float((touches & selected).any()),
        # Chance that as many different random patches all miss the mask: hypergeometric.
        "hit_chance": 1.0 - math.comb(patches - touching, picked) / math.comb(patches, picked),
        "mass": float(_normalised(attention) @ coverage),
        "mass_rollout": float(_normalised(importance) @ coverage),
        "mass_chance": float(coverage.mean()),
    }


def located(scores: Scores, rows: Sequence[Row]) -> list[Located]:
    """Figures of every finding in every image that has it and a mask or box of it.

    An empty mask does not count. A mask that the preprocessing cuts off counts as missed. The attention of an ensemble
    is the mean of its members', and its selected patches are those of any member.

    Args:
        scores: scores of one model, or of an ensemble on one grid of patches.
        rows: rows of the dataset with the masks; found by their line.

    Raises:
        LrclrError: a mask cannot be read, or does not have the shape of its image.
    """
    by_line = {row.line: row for row in rows}
    result = []
    for f, name in enumerate(scores.findings):
        places = []
        for n in np.flatnonzero(scores.labels[:, f] == PRESENT).tolist():
            row = by_line.get(int(scores.line[n]))
            key = None if row is None else spelling_in(row, name)
            judged = None if row is None or key is None else _judged(scores, n, f, row, key)
            if judged is not None:
                places.append((n, judged))
        if places:
            result.append(_collected(name, places))
    return result


def ground(scores: Scores, rows: Sequence[Row], resamples: Resamples) -> tuple[Grounding, ...]:
    """Grounding of each finding with masks, then their mean; empty without masks.

    Region attention is left out if the fusion head is not trained.
    """
    findings = located(scores, rows)
    if not findings:
        return ()
    figures = ["hit", "pointing_rollout", "mass_rollout"]
    if scores.fusion_trained:
        figures += ["pointing", "mass"]
    statistics = [share(each.image, each.figures[figure]) for figure in figures for each in findings]
    samples = resampled(resamples, statistics).reshape(len(figures), len(findings), -1)
    few = [too_few(each.image, resamples.group) for each in findings]
    samples[:, [bool(why) for why in few]] = np.nan
    drawn = dict(zip(figures, samples, strict=True))
    result = [
        _summary(
            each.name,
            len(each.image),
            {figure: estimate(each.mean(figure), drawn[figure][number]) for figure in figures},
            {name: each.mean(f"{name}_chance") for name in ("pointing", "hit", "mass")},
            few[number],
        )
        for number, each in enumerate(findings)
    ]
    means = {figure: mean_of([each.mean(figure) for each in findings], drawn[figure]) for figure in figures}
    chances = {
        name: float(np.mean([each.mean(f"{name}_chance") for each in findings])) for name in ("pointing", "hit", "mass")
    }
    images = len(np.unique(np.concatenate([each.image for each in findings])))
    return (*result, _summary("mean", images, means, chances))


def too_few(image: NDArray[np.int64], group: NDArray[np.int64]) -> str:
    """Why figures of these images have neither intervals nor tests; "" if they are of enough patients."""
    count = len(np.unique(group[image]))
    return "" if count >= LEAST_UNITS else few_units(count, "with a mask or box", group)


def _summary(
    name: str, images: int, figures: dict[str, Estimate], chances: dict[str, float], no_interval: str = ""
) -> Grounding:
    return Grounding(
        name=name,
        images=images,
        pointing=figures.get("pointing", Estimate(None)),
        pointing_rollout=figures["pointing_rollout"],
        pointing_chance=chances["pointing"],
        hit_rate=figures["hit"],
        hit_rate_chance=chances["hit"],
        mass=figures.get("mass", Estimate(None)),
        mass_rollout=figures["mass_rollout"],
        mass_chance=chances["mass"],
        no_interval=no_interval,
    )


def _judged(scores: Scores, n: int, f: int, row: Row, key: str) -> dict[str, float] | None:
    info = scores.models[0].info
    height, width = (int(side) for side in scores.sizes[n])
    try:
        mask = row_mask(row, key, (height, width))
    except LrclrError as error:
        raise LrclrError(f"a mask or box in line {row.line} of the dataset cannot be used", why=str(error)) from error
    if mask is None or not mask.any():
        return None
    geometry = PreprocessSpec.from_dict(info["preprocess"]).geometry(height, width)
    coverage = patch_coverage(mask, geometry, info["patch_size"]).ravel().astype(np.float64)
    return place(coverage, *on_grid(scores, n, f, len(coverage)))


def on_grid(scores: Scores, n: int, f: int, patches: int) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Attention, importance and selection of every patch ``[patches]`` of an image for a finding."""
    attention, importance = np.zeros(patches), np.zeros(patches)
    selected = np.zeros(patches, np.bool_)
    for model in scores.models:
        answers = model.answers
        index = answers.region_index[n]
        selected[index] = True
        attention += _summed(index, answers.region_attention[n, f], patches)
        importance += _summed(index, answers.region_importance[n], patches)
    return attention, importance, selected


def _summed(index: NDArray[np.int64], weights: NDArray[np.float32], patches: int) -> Floats:
    """Sum of the weights on each patch, as shares of the total."""
    return _normalised(np.bincount(index, weights, patches).astype(np.float64))


def _normalised(weights: Floats) -> Floats:
    total = weights.sum()
    return weights / total if total > 0 else weights


def spelling_in(row: Row, name: str) -> str | None:
    """The spelling of the finding in the row's masks or boxes."""
    wanted = finding_key(name)
    return next((key for key in (*row.masks, *row.boxes) if finding_key(key) == wanted), None)


def _collected(name: str, places: Sequence[tuple[int, dict[str, float]]]) -> Located:
    figures = {figure: np.array([each[figure] for _, each in places], np.float64) for figure in places[0][1]}
    return Located(name, np.array([n for n, _ in places], np.int64), figures)
