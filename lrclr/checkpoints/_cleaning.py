"""How open_clip cleans a text before a tokenizer of transformers reads it, as normalizers of that tokenizer.

open_clip also repairs mojibake and HTML entities, which lrclr does not.
"""

from __future__ import annotations

import re
import string
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tokenizers import Regex, Tokenizer, normalizers

from lrclr.errors import CheckpointError
from lrclr.text import ClipTokenizer

_SPACES: Final = (normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip())
CANONICAL: Final = (
    normalizers.Lowercase(),
    normalizers.Replace(Regex(f"[{re.escape(string.punctuation)}]"), ""),
    *_SPACES,
)
"""Lower case, without ASCII punctuation, single spaces: as SigLIP was trained."""
KINDS: Final[Mapping[str, tuple[Any, ...]]] = {
    "whitespace": _SPACES,
    "lower": (*_SPACES, normalizers.Lowercase()),
    "canonicalize": (normalizers.Replace("_", " "), *CANONICAL),
}
"""By open_clip's names."""


def cleaning_of(
    text: Mapping[str, Any], file: Path, kinds: Collection[str] = tuple(KINDS), default: str = "whitespace"
) -> str:
    """The kind of cleaning that the ``text_cfg`` of `file` asks for.

    Args:
        text: the ``text_cfg``.
        file: its file, for errors.
        kinds: the kinds that lrclr can do.
        default: the kind of a ``text_cfg`` that names none.

    Raises:
        CheckpointError: it is not known, or the text is changed in another way too.
    """
    asked = text.get("tokenizer_kwargs") or {}
    clean = asked.get("clean", default) if isinstance(asked, dict) else None
    mode = text.get("tokenizer_mode")
    if clean not in kinds or asked.keys() - {"clean"} or mode:
        raise CheckpointError(
            f"{file} describes a tokenizer that lrclr cannot read",
            why=f"text_cfg.tokenizer_mode is {mode!r}" if mode else f"text_cfg.tokenizer_kwargs is {asked!r}",
            fix=f"lrclr can do 'clean': {', '.join(kinds)}; without a tokenizer_mode.",
        )
    return str(clean)


def clip_cleaning(text: Mapping[str, Any], file: Path) -> tuple[Any, ...]:
    """The normalizers that open_clip's cleaning adds to the tokenizer of a network with open_clip's text transformer.

    Raises:
        CheckpointError: as `cleaning_of`.
    """
    if text.get("hf_tokenizer_name"):
        return KINDS[cleaning_of(text, file)]
    # open_clip's copy of CLIP's tokenizer writes in lower case unless told otherwise, and so do the files of it.
    kind = cleaning_of({**text, "tokenizer_mode": None}, file, ("lower", "canonicalize"), "lower")
    return () if kind == "lower" else KINDS[kind]


def cleaned_clip(tokenizer: ClipTokenizer, steps: Sequence[Any]) -> ClipTokenizer:
    """The tokenizer, which applies these normalizers before its own."""
    if not steps:
        return tokenizer
    data = cleaned(Tokenizer.from_buffer(tokenizer.data), steps).to_str().encode()
    length = tokenizer.context_length
    return ClipTokenizer(data, source="a tokenizer", context_length=length, **tokenizer.options)


def cleaned(tokenizer: Tokenizer, steps: Sequence[Any]) -> Tokenizer:
    """The tokenizer, which applies these normalizers before its own."""
    own = [tokenizer.normalizer] if tokenizer.normalizer is not None else []
    tokenizer.normalizer = normalizers.Sequence([*steps, *own])
    return tokenizer
