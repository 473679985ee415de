"""Open an engine, also the fastest one that passes the gates; open a model, from a bundle or from a checkpoint."""

from __future__ import annotations

from lrclr.auto._choice import ChosenEngine, choose_engine, open_engine
from lrclr.auto._open import is_bundle, open_checkpoint, open_model

__all__ = ["ChosenEngine", "choose_engine", "is_bundle", "open_checkpoint", "open_engine", "open_model"]
