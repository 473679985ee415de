"""Bundles: a Triton model repository with a manifest, and golden data for the gates."""

from __future__ import annotations

from lrclr.bundle._bundle import (
    ENTRIES,
    FINDINGS,
    GOLDEN,
    GRAPHS,
    MANIFEST,
    SCHEMA_VERSION,
    SERVER_MODEL,
    TOKENIZER,
    Bundle,
    EngineEntry,
    FileEntry,
    GraphEntry,
    Manifest,
    file_table,
    plan_file,
    require_digest,
    write_manifest,
)
from lrclr.bundle._golden import Golden, GraphOutputs

__all__ = [
    "ENTRIES",
    "FINDINGS",
    "GOLDEN",
    "GRAPHS",
    "MANIFEST",
    "SCHEMA_VERSION",
    "SERVER_MODEL",
    "TOKENIZER",
    "Bundle",
    "EngineEntry",
    "FileEntry",
    "Golden",
    "GraphEntry",
    "GraphOutputs",
    "Manifest",
    "file_table",
    "plan_file",
    "require_digest",
    "write_manifest",
]
