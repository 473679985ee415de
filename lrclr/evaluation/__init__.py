"""Evaluation of a checkpoint or a bundle: recognition, calibration and grounding, with intervals.

Needs the extra ``evaluate``. Research use only.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lrclr.evaluation._compare import Comparison, Difference, compare
    from lrclr.evaluation._evaluate import EvaluationOptions, EvaluationRun, evaluate, evaluate_scores
    from lrclr.evaluation._presets import PRESETS, Preset
    from lrclr.evaluation._reports import markdown
    from lrclr.evaluation._result import Estimate, Evaluation, Example, FindingQuality, Grounding, MeanQuality
    from lrclr.evaluation._scores import Scores, score_rows
    from lrclr.evaluation._scores_file import is_scores, load_scores, save_scores
    from lrclr.evaluation._select import Selection, select
    from lrclr.evaluation._store import store

# Imported when first used: importing scikit-learn takes a second.
_HOMES = {
    "Comparison": "_compare",
    "Difference": "_compare",
    "Estimate": "_result",
    "Evaluation": "_result",
    "EvaluationOptions": "_evaluate",
    "Example": "_result",
    "FindingQuality": "_result",
    "Grounding": "_result",
    "EvaluationRun": "_evaluate",
    "MeanQuality": "_result",
    "PRESETS": "_presets",
    "Preset": "_presets",
    "Scores": "_scores",
    "Selection": "_select",
    "compare": "_compare",
    "evaluate": "_evaluate",
    "evaluate_scores": "_evaluate",
    "is_scores": "_scores_file",
    "load_scores": "_scores_file",
    "markdown": "_reports",
    "save_scores": "_scores_file",
    "score_rows": "_scores",
    "select": "_select",
    "store": "_store",
}

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


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lrclr.evaluation' has no attribute {name!r}")
    return getattr(importlib.import_module(f"lrclr.evaluation.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
