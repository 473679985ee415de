"""Drift: whether a model's scores, warnings and embeddings on current images differ from those on reference images."""

from __future__ import annotations

from lrclr.drift._collection import Collection, read_collection
from lrclr.drift._compare import DriftOptions, DriftReport, EmbeddingDrift, FindingDrift, RateDrift, compare
from lrclr.drift._reports import html

__all__ = [
    "Collection",
    "DriftOptions",
    "DriftReport",
    "EmbeddingDrift",
    "FindingDrift",
    "RateDrift",
    "compare",
    "html",
    "read_collection",
]
