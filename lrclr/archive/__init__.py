"""Scoring of archives: one row for every image, in Parquet, in this process or on a Ray cluster."""

from lrclr.archive._options import LocalOptions, RayOptions, ScoreOptions, ScoreProgress, ScoreSummary
from lrclr.archive._run import score

__all__ = ["LocalOptions", "RayOptions", "ScoreOptions", "ScoreProgress", "ScoreSummary", "score"]
