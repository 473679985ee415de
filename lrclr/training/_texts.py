"""The text of an image in a draw, and keys by which equal texts are recognised."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Final

from lrclr.datasets import ABSENT, PRESENT

if TYPE_CHECKING:
    from numpy.random import Generator

    from lrclr.datasets import Row

_BETWEEN_SENTENCES: Final = re.compile(r"(?<=[.!?;])\s+|\s*\n\s*\n\s*")


def whole_text(row: Row) -> str | None:
    """A row's report, or its labels as sentences; ``None`` without either."""
    report = " ".join((row.report or "").split())
    if any(character.isalnum() for character in report):
        return report
    labels = (_sentence(name, value) for name, value in row.labels.items())
    return " ".join(sentence for sentence in labels if sentence) or None


def _sentence(name: str, value: int) -> str:
    """A label as a sentence; "" for an uncertain one."""
    # The label "No Finding" is itself a negation.
    negation = name.casefold().startswith("no ")
    if value == PRESENT:
        return f"{name}."
    return f"No {name}." if value == ABSENT and not negation else ""


def sentences(text: str) -> tuple[str, ...]:
    """The sentences of a report that contain a word. Numbers of a list do not."""
    parts = (" ".join(part.split()) for part in _BETWEEN_SENTENCES.split(text))
    kept = tuple(part for part in parts if any(character.isalpha() for character in part))
    return kept or (" ".join(text.split()),)


def draw_text(text: str, mode: str, generator: Generator) -> str:
    """The text, or with ``"sentences"`` a random non-empty part of its sentences in random order."""
    if mode == "report":
        return text
    known = sentences(text)
    count = int(generator.integers(1, len(known) + 1))
    return " ".join(known[number] for number in generator.permutation(len(known))[:count])


def text_key(text: str) -> int:
    """A 64-bit hash of a text. Case, white space and the order of sentences make no difference."""
    known = sorted(sentences(text.casefold()))
    digest = hashlib.blake2b("\n".join(known).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)
