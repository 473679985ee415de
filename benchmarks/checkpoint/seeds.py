"""Compares the two losses over several training runs: LRCLR's against the global one alone, seed by seed.

Each run's answers are a file that ``lrclr evaluate CHECKPOINT DATASET --split SPLIT --scores FILE`` wrote. The first
file of one loss is paired with the first of the other, and so on.

::

    python -m benchmarks.checkpoint.seeds build/phantom/manifest.csv \\
        --lrclr build/lrclr-*.npz --global-only build/global-*.npz

An interval covers other images and other seeds: its variance is that of the mean difference over images (DeLong, the
images being the same for all runs) plus that of the seeds' differences, divided by the number of seeds. With few seeds
the second is uncertain, which Student's t takes into account with Satterthwaite's degrees of freedom.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.stats import t

from benchmarks.commands import reports_errors
from lrclr.datasets import read_dataset
from lrclr.errors import UsageError
from lrclr.evaluation import load_scores
from lrclr.evaluation._delong import mean_influence, placements
from lrclr.evaluation._grounding import located
from lrclr.reports import Estimate, fixed, signed, span

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from lrclr.datasets import Row
    from lrclr.evaluation import Scores

    Floats = NDArray[np.float64]

__all__ = ["Paired", "aurocs", "difference", "pointing", "report"]


class Paired(NamedTuple):
    """A figure of one finding, or their mean, in all runs.

    Attributes:
        name: the finding, or "mean".
        values, against: ``[S]``, the two sides' figure for each seed.
        influence: ``[S, images]``, contribution of each image to each seed's difference.
    """

    name: str
    values: Floats
    against: Floats
    influence: Floats


def difference(paired: Paired) -> Estimate:
    """Mean difference over the seeds, with a 95 % interval for other images and seeds; none with one seed."""
    differences = paired.values - paired.against
    seeds, value = len(differences), float(differences.mean())
    if seeds < 2:
        return Estimate(value)
    of_images = float((paired.influence.mean(0) ** 2).sum())
    of_seeds = float(differences.var(ddof=1)) / seeds
    freedom = (of_images + of_seeds) ** 2 / of_seeds**2 * (seeds - 1) if of_seeds else np.inf
    reach = float(t.ppf(0.975, freedom) * np.sqrt(of_images + of_seeds))
    return Estimate(value, max(value - reach, -1.0), min(value + reach, 1.0))


def aurocs(runs: Sequence[Scores], others: Sequence[Scores]) -> list[Paired]:
    """AUROC of each finding and their mean.

    Raises:
        UsageError: the runs are not of the same images and findings, or a finding has one class only.
    """
    first = runs[0]
    for scores in (*runs, *others):
        first.check_same_images(scores)
        if scores.findings != first.findings:
            raise UsageError("the runs have different findings", fix="Use one findings file for all.")
    result = []
    for f, name in enumerate(first.findings):
        placed = [
            [placements(first.labels[:, f], scores.ranking(scores.alpha)[:, f], first.group) for scores in side]
            for side in (runs, others)
        ]
        areas = [[each.area for each in side if each is not None] for side in placed]
        if not areas[0]:
            raise UsageError(f"{name} has no AUROC", why="all images have it, or none")
        influence = [
            one.influence - other.influence
            for one, other in zip(*placed, strict=True)
            if one is not None and other is not None
        ]
        result.append(Paired(name, np.array(areas[0]), np.array(areas[1]), np.stack(influence)))
    return [*result, _mean(result)]


def pointing(runs: Sequence[Scores], rows: Sequence[Row]) -> list[Paired]:
    """Pointing of region attention against that of plain rollout, of each finding and their mean."""
    places = [located(scores, rows) for scores in runs]
    result = []
    for at, of_first in enumerate(places[0]):
        figures = [side[at].figures for side in places]
        influence = [
            mean_influence(of_first.image, each["pointing"] - each["pointing_rollout"], runs[0].group)
            for each in figures
        ]
        values, against = (
            np.array([each[figure].mean() for each in figures]) for figure in ("pointing", "pointing_rollout")
        )
        result.append(Paired(of_first.name, values, against, np.stack(influence)))
    return [*result, _mean(result)]


def _mean(figures: Sequence[Paired]) -> Paired:
    values, against, influence = (np.mean(parts, axis=0) for parts in list(zip(*figures, strict=True))[1:])
    return Paired("mean", values, against, influence)


def report(runs: Sequence[Scores], others: Sequence[Scores], rows: Sequence[Row]) -> str:
    """Markdown: a table of AUROCs and one of pointing, with every seed."""
    return "\n".join(
        [
            *_table("AUROC", "LRCLR", "global only", aurocs(runs, others)),
            "",
            *_table("Pointing", "region attention", "rollout", pointing(runs, rows)),
            "",
        ]
    )


def _table(figure: str, side: str, other: str, figures: Sequence[Paired]) -> list[str]:
    columns = (figure, f"{side}, each seed", "mean", f"{other}, each seed", "mean", "mean difference (95 % interval)")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for each in figures:
        name = f"**{each.name}**" if each.name == "mean" else each.name
        shown = (
            f"{', '.join(fixed(value) for value in values)} | {fixed(float(values.mean()))}"
            for values in (each.values, each.against)
        )
        mean = difference(each)
        interval = f" ({span(mean, signed, ' to ')})" if mean.low is not None else ""
        lines.append(f"| {name} | {' | '.join(shown)} | {signed(mean.value)}{interval} |")
    return lines


@reports_errors
def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.checkpoint.seeds", description="Compare two losses over seeds.")
    parser.add_argument("dataset", type=Path, help="manifest.csv of the phantom data set, for the masks")
    parser.add_argument("--lrclr", type=Path, nargs="+", required=True, help="scores of LRCLR's runs")
    parser.add_argument("--global-only", type=Path, nargs="+", required=True, help="scores of the global loss's runs")
    options = parser.parse_args()
    if len(options.lrclr) != len(options.global_only):
        parser.error("--lrclr and --global-only need the same number of files")
    runs, others = ([load_scores(path) for path in paths] for paths in (options.lrclr, options.global_only))
    sys.stdout.write(report(runs, others, read_dataset(options.dataset).rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
