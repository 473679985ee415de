"""Embeddings of many images or texts, written to a Parquet file."""

from __future__ import annotations

from lrclr.embedding._options import EmbedOptions, EmbedSummary
from lrclr.embedding._write import write_image_embeddings, write_text_embeddings

__all__ = ["EmbedOptions", "EmbedSummary", "write_image_embeddings", "write_text_embeddings"]
