"""Tuning of Triton's configuration: what `lrclr tune` does. See docs/howto/tune.md."""

from __future__ import annotations

from lrclr.tune._options import TuneOptions
from lrclr.tune._reports import save_reports
from lrclr.tune._result import DRIFT, Row, TuneResult, result_json
from lrclr.tune._run import check_output, keep, tune
from lrclr.tune._search import RUNGS, Budget, Rung, Standing, halving, rungs_for
from lrclr.tune._space import Candidate, Choice, Factor, Space, factors
from lrclr.tune._windows import Estimate, Plan, Window, closed_estimate, open_estimate

__all__ = [
    "DRIFT",
    "RUNGS",
    "Budget",
    "Candidate",
    "Choice",
    "Estimate",
    "Factor",
    "Plan",
    "Row",
    "Rung",
    "Space",
    "Standing",
    "TuneOptions",
    "TuneResult",
    "Window",
    "check_output",
    "closed_estimate",
    "factors",
    "halving",
    "keep",
    "open_estimate",
    "result_json",
    "rungs_for",
    "save_reports",
    "tune",
]
