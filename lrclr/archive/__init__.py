"""Scoring of archives: one row for every image, in Parquet, in this process or on a Ray cluster."""

from lrclr.archive._options import LocalOptions, RayOptions, ScoreOptions, ScoreProgress, ScoreSummary
from lrclr.archive._outcome import ScoredImage
from lrclr.archive._run import score
from lrclr.archive._source import Item, RemoteImages, Source, open_source

__all__ = [
    "Item",
    "LocalOptions",
    "RayOptions",
    "RemoteImages",
    "ScoreOptions",
    "ScoreProgress",
    "ScoreSummary",
    "ScoredImage",
    "Source",
    "open_source",
    "score",
]
