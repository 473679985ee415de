"""Benchmarks of speed and quality: what `lrclr bench` does. See docs/howto/benchmark.md."""

from __future__ import annotations

from lrclr.bench._case import STAGES, Case, Stage
from lrclr.bench._closed import LOST, closed_window
from lrclr.bench._compare import Change, ResultComparison, compare_results
from lrclr.bench._environment import environment
from lrclr.bench._flops import Cost, Network
from lrclr.bench._interleave import Timings, interleaved
from lrclr.bench._open import arrivals, open_window
from lrclr.bench._options import BenchOptions
from lrclr.bench._peak import measure_peaks
from lrclr.bench._quality import Reference, measure_quality, reference_from
from lrclr.bench._reports import save_reports
from lrclr.bench._result import Measurement, OperatorTimes, Peak, Quality, Result, Round, Search, TargetInfo
from lrclr.bench._result_file import load_result, result_from_json, result_json
from lrclr.bench._run import BenchCallbacks, bench
from lrclr.bench._stages import Files
from lrclr.bench._statistics import quantiles
from lrclr.bench._targets import OpenOptions, Target, open_targets

__all__ = [
    "LOST",
    "STAGES",
    "BenchCallbacks",
    "BenchOptions",
    "Case",
    "Change",
    "Cost",
    "Files",
    "Measurement",
    "Network",
    "OpenOptions",
    "OperatorTimes",
    "Peak",
    "Quality",
    "Reference",
    "Result",
    "ResultComparison",
    "Round",
    "Search",
    "Stage",
    "Target",
    "TargetInfo",
    "Timings",
    "arrivals",
    "bench",
    "closed_window",
    "compare_results",
    "environment",
    "interleaved",
    "load_result",
    "measure_peaks",
    "measure_quality",
    "open_targets",
    "open_window",
    "quantiles",
    "reference_from",
    "result_from_json",
    "result_json",
    "save_reports",
]
