"""How open_clip cleans a text before a tokenizer of transformers reads it, as normalizers of that tokenizer.

open_clip also repairs mojibake and HTML entities, which lrclr does not.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tokenizers import Regex, Tokenizer, normalizers

from lrclr.errors import CheckpointError

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


def cleaning_of(text: Mapping[str, Any], file: Path) -> str:
    """The kind of cleaning that the ``text_cfg`` of `file` asks for.

    Raises:
        CheckpointError: it is not known, or the text is changed in another way too.
    """
    asked = text.get("tokenizer_kwargs") or {}
    clean = asked.get("clean", "whitespace") if isinstance(asked, dict) else None
    if clean not in KINDS or asked.keys() - {"clean"}:
        raise CheckpointError(
            f"{file} describes a tokenizer that lrclr cannot read",
            why=f"text_cfg.tokenizer_kwargs is {asked!r}",
            fix=f"lrclr can do 'clean': {', '.join(KINDS)}.",
        )
    return str(clean)


def cleaned(tokenizer: Tokenizer, steps: Sequence[Any]) -> Tokenizer:
    """The tokenizer, which applies these normalizers before its own."""
    own = [tokenizer.normalizer] if tokenizer.normalizer is not None else []
    tokenizer.normalizer = normalizers.Sequence([*steps, *own])
    return tokenizer
