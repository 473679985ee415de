"""Bundles: a Triton model repository with a manifest, and golden data for the gates."""

from __future__ import annotations

from lrclr.bundle._bundle import Bundle, bundle_entries, require_digest
from lrclr.bundle._card import model_card
from lrclr.bundle._content import NO_CACHE, SERVER_MODEL, file_table, member_golden, plan_file
from lrclr.bundle._golden import Golden
from lrclr.bundle._manifest import (
    FINDINGS,
    GOLDEN,
    GRAPHS,
    MANIFEST,
    MEMBER_NAME,
    SCHEMA_VERSION,
    SHARED_SCORING,
    TOKENIZER,
    EngineEntry,
    FileEntry,
    Float32Entry,
    GraphEntry,
    Manifest,
    TokenizerEntry,
)
from lrclr.bundle._push import push_bundle
from lrclr.bundle._serving import ServingSettings, TuningEntry
from lrclr.bundle._write import write_manifest

__all__ = [
    "FINDINGS",
    "GOLDEN",
    "GRAPHS",
    "MANIFEST",
    "MEMBER_NAME",
    "NO_CACHE",
    "SCHEMA_VERSION",
    "SERVER_MODEL",
    "SHARED_SCORING",
    "TOKENIZER",
    "Bundle",
    "EngineEntry",
    "FileEntry",
    "Float32Entry",
    "Golden",
    "GraphEntry",
    "Manifest",
    "ServingSettings",
    "TokenizerEntry",
    "TuningEntry",
    "bundle_entries",
    "file_table",
    "member_golden",
    "model_card",
    "plan_file",
    "push_bundle",
    "require_digest",
    "write_manifest",
]
