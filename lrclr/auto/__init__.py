"""Open an engine, or the fastest one that passes the gates; open a model of a bundle or a checkpoint."""

from __future__ import annotations

from lrclr.auto._choice import ChosenEngine, choose_engine, named_options, open_engine
from lrclr.auto._open import is_bundle, open_checkpoint, open_model

__all__ = [
    "ChosenEngine",
    "choose_engine",
    "is_bundle",
    "named_options",
    "open_checkpoint",
    "open_engine",
    "open_model",
]
