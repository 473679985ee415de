"""Evaluation of a checkpoint or a bundle: recognition, calibration and grounding, with intervals.

Needs the extra ``evaluate``. Research use only.
"""

from __future__ import annotations

from lrclr.evaluation._compare import Comparison, Difference, compare
from lrclr.evaluation._evaluate import EvaluationOptions, EvaluationRun, evaluate, evaluate_scores
from lrclr.evaluation._presets import PRESETS, Preset
from lrclr.evaluation._reports import markdown
from lrclr.evaluation._result import Evaluation, Example, FindingQuality, Grounding, MeanQuality
from lrclr.evaluation._scores import Scores, score_rows
from lrclr.evaluation._scores_file import is_scores, load_scores, save_scores
from lrclr.evaluation._select import Selection, select
from lrclr.evaluation._store import store
from lrclr.reports import Estimate

__all__ = [
    "PRESETS",
    "Comparison",
    "Difference",
    "Estimate",
    "Evaluation",
    "EvaluationOptions",
    "EvaluationRun",
    "Example",
    "FindingQuality",
    "Grounding",
    "MeanQuality",
    "Preset",
    "Scores",
    "Selection",
    "compare",
    "evaluate",
    "evaluate_scores",
    "is_scores",
    "load_scores",
    "markdown",
    "save_scores",
    "score_rows",
    "select",
    "store",
]
