"""Faults in lrclr's own code, patched in while the gates run: preprocessing, tokenizer and scores."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
from PIL import Image

from lrclr.inference import ScoreCalibration
from lrclr.text import ClipTokenizer, TokenBatch

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    Patch = Callable[[], AbstractContextManager[Any]]

# By name, since the package has a function of the same name as the module.
_preprocess: Any = importlib.import_module("lrclr.preprocessing._transform")
_network: Any = importlib.import_module("lrclr.inference._network")


def pixels(change: Callable[[Any], Any]) -> Patch:
    """Change the network's input after preprocessing."""
    # Other modules import `preprocess` by name, so the function that it calls is replaced.
    whole = _preprocess.from_canvas
    return lambda: patch.object(
        _preprocess, "from_canvas", lambda image, spec: np.ascontiguousarray(change(whole(image, spec)))
    )


def canvas(change: Callable[[Any], Any]) -> Patch:
    """Change the 8-bit image after the resize."""
    whole = _preprocess.from_canvas
    return lambda: patch.object(
        _preprocess, "from_canvas", lambda image, spec: whole(np.ascontiguousarray(change(image)), spec)
    )


def interpolation(other: Image.Resampling) -> Patch:
    """Resize with another filter."""
    whole = _preprocess._resized  # noqa: SLF001 - no public function takes the filter
    return lambda: patch.object(
        _preprocess, "_resized", lambda picture, columns, rows, _resample: whole(picture, columns, rows, other)
    )


def without_antialias() -> AbstractContextManager[Any]:
    """Resize by single pixels instead of weighted means."""

    def nearby(picture: Image.Image, columns: int, rows: int, _resample: Any) -> Image.Image:
        box = (0, 0, *picture.size)
        return picture.transform((columns, rows), Image.Transform.EXTENT, box, Image.Resampling.BICUBIC)

    return patch.object(_preprocess, "_resized", nearby)


def tokens(change: Callable[[ClipTokenizer, TokenBatch], TokenBatch]) -> Patch:
    """Change what the tokenizer returns."""
    whole = ClipTokenizer.encode

    def encode(self: ClipTokenizer, texts: Any, **options: Any) -> TokenBatch:
        return change(self, whole(self, texts, **options))

    return lambda: patch.object(ClipTokenizer, "encode", encode)


def texts(change: Callable[[str], str]) -> Patch:
    """Change the prompts before they are encoded."""
    whole = ClipTokenizer.encode

    def encode(self: ClipTokenizer, texts: Any, **options: Any) -> TokenBatch:
        return whole(self, [change(text) for text in texts], **options)

    return lambda: patch.object(ClipTokenizer, "encode", encode)


def shifted_numbers(tokenizer: ClipTokenizer, batch: TokenBatch) -> TokenBatch:
    """Numbers of words that are one too low."""
    words = batch.mask.astype(bool) & ~np.isin(batch.input_ids, sorted(tokenizer.reserved))
    return TokenBatch(np.where(words, np.maximum(batch.input_ids - 1, 3), batch.input_ids), batch.mask)


def mask_without_eot(_: ClipTokenizer, batch: TokenBatch) -> TokenBatch:
    """A mask that leaves EOT out."""
    mask = batch.mask.copy()
    mask[np.arange(len(mask)), batch.mask.sum(1) - 1] = 0
    return TokenBatch(batch.input_ids, mask)


def classifier(name: str, change: Callable[..., Any]) -> Patch:
    """Change a function or a method with which the classifier computes answers from the graphs' outputs."""
    owner = ScoreCalibration if name == "probabilities" else _network
    whole = getattr(owner, name)
    return lambda: patch.object(owner, name, lambda *given, **named: change(whole, *given, **named))
