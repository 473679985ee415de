"""Tokenizers, and findings with their prompts."""

from __future__ import annotations

from lrclr.text._findings import Finding, FindingSet, check_prompts, finding_key, require_finding_set, unknown_finding
from lrclr.text._tokenizer import TOKENIZER_FILES, ClipTokenizer, TokenBatch, has_tokenizer, no_tokenizer

__all__ = [
    "TOKENIZER_FILES",
    "ClipTokenizer",
    "Finding",
    "FindingSet",
    "TokenBatch",
    "check_prompts",
    "finding_key",
    "has_tokenizer",
    "no_tokenizer",
    "require_finding_set",
    "unknown_finding",
]
