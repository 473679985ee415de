"""Tokenizers, and findings with their prompts."""

from __future__ import annotations

from lrclr.text._findings import Finding, FindingSet, finding_key, unknown_finding
from lrclr.text._tokenizer import ClipTokenizer, TokenBatch

__all__ = ["ClipTokenizer", "Finding", "FindingSet", "TokenBatch", "finding_key", "unknown_finding"]
