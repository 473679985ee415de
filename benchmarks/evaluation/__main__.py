"""Simulates the coverage of the intervals and tests of `lrclr evaluate`: ``python -m benchmarks.evaluation``.

Scores with a known AUROC are drawn many times. The results are how often a 95 % interval contains the AUROC, and how
often a comparison of two equal models shows a difference. Percentile bootstrap intervals, which earlier versions gave,
are computed on a part of the draws too.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.evaluation.draws import binormal, equal_models
from benchmarks.measure import page
from lrclr._processors import processors
from lrclr.evaluation import compare
from lrclr.evaluation._bootstrap import Ranking, Resamples, estimate, resampled
from lrclr.evaluation._delong import LEAST_UNITS, auroc_interval, mean_interval, placements

if TYPE_CHECKING:
    from lrclr.evaluation import Estimate

POSITIVES = (5, 10, 20, 50)
AREAS = (0.7, 0.85, 0.97)
NEGATIVES = 200
KINDS: dict[str, dict[str, Any]] = {
    "independent images": {},
    "positives vary twice as much": {"spread": 2.0},
    "3 images a patient, correlation 0.7": {"each": 3, "correlation": 0.7},
    "3 images a patient, correlation 0.3": {"each": 3, "correlation": 0.3},
    "3 images a patient, of both classes, correlation 0.7": {"each": 3, "correlation": 0.7, "mixed": True},
}
FINDINGS = 14


def main() -> None:
    """Simulate, and write JSON and a page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluation", description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/evaluation"), help="folder")
    parser.add_argument(
        "--draws", type=int, default=2000, help="draws of each setting and of each pair of equal models"
    )
    parser.add_argument("--bootstrapped", type=int, default=100, help="draws of each setting with a bootstrap interval")
    options = parser.parse_args()
    rows = [
        row(kind, area, positives, options.draws, options.bootstrapped)
        for kind, area, positives in product(KINDS, AREAS, POSITIVES)
        if positives > KINDS[kind].get("each", 1) * (LEAST_UNITS - 1)
    ]
    report = {
        "command": f"python -m benchmarks.evaluation --draws {options.draws} --bootstrapped {options.bootstrapped}",
        "machine": f"{platform.system()} {platform.machine()}, {processors()} cores, Python "
        f"{platform.python_version()}, numpy {version('numpy')}, scipy {version('scipy')}",
        "negatives": NEGATIVES,
        "intervals": rows,
        "mean": [mean_row(positives, options.draws) for positives in POSITIVES if positives > 3 * (LEAST_UNITS - 1)],
        "comparisons": [family_row(shared, options.draws) for shared in (0.3, 0.6, 0.9)],
    }
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "evaluation.json").write_text(json.dumps(report, indent=1) + "\n")
    (options.output / "README.md").write_text(page("evaluation.md", kinds=list(KINDS), findings=FINDINGS, **report))


def row(kind: str, area: float, positives: int, draws: int, bootstrapped: int) -> dict[str, Any]:
    """Coverage and width of one setting."""
    draw = np.random.default_rng([int(1000 * area), positives])
    held, widths, old, zero = 0, [], 0, 0
    for number in range(draws):
        label, score, group = binormal(draw, area, positives, NEGATIVES, **KINDS[kind])
        found = auroc_interval(placements(label, score, group))
        held += found.contains(area)
        widths.append(width(found))
        if number < bootstrapped:
            ranking = Ranking(label, score)
            samples, _ = resampled(Resamples(group, 1000, number), [ranking.both])
            before = estimate(found.value, samples)
            old += before.contains(area)
            zero += width(before) == 0.0
    print(f"{kind}, AUROC {area}, {positives} positives: {held / draws:.3f}", file=sys.stderr)
    return {
        "kind": kind,
        "auroc": area,
        "positives": positives,
        "draws": draws,
        "coverage": held / draws,
        "standard_error": error(held / draws, draws),
        "width": [float(value) for value in np.percentile(widths, (25, 50, 75))],
        "bootstrap_coverage": old / bootstrapped if bootstrapped else None,
        "bootstrap_of_no_width": zero / bootstrapped if bootstrapped else None,
    }


def mean_row(positives: int, draws: int) -> dict[str, Any]:
    """Coverage of the mean over several findings on the same images, with AUROCs between 0.7 and 0.97."""
    draw = np.random.default_rng(positives)
    areas = np.linspace(0.7, 0.97, FINDINGS)
    held = 0
    for _ in range(draws):
        made = [binormal(draw, area, positives, NEGATIVES, each=3, correlation=0.7) for area in areas]
        found = mean_interval([placements(*sample) for sample in made])
        held += found.contains(float(areas.mean()))
    return {"positives": positives, "coverage": held / draws, "standard_error": error(held / draws, draws)}


def family_row(shared: float, draws: int) -> dict[str, Any]:
    """How often a comparison of two equal models shows any difference, and how often uncorrected p-values would."""
    draw = np.random.default_rng(int(100 * shared))
    shown, uncorrected = 0, 0
    for _ in range(draws):
        differences = compare(*equal_models(draw, findings=FINDINGS, shared=shared)).differences
        shown += any(each.verdict in ("higher", "lower") for each in differences)
        uncorrected += any(each.p is not None and each.p < 0.05 for each in differences)
    return {
        "correlation": shared,
        "draws": draws,
        "shown": shown / draws,
        "standard_error": error(shown / draws, draws),
        "uncorrected": uncorrected / draws,
    }


def width(found: Estimate) -> float:
    return math.nan if found.low is None or found.high is None else found.high - found.low


def error(share: float, draws: int) -> float:
    return math.sqrt(share * (1.0 - share) / draws)


if __name__ == "__main__":
    main()
