"""Options for what a checkpoint file does not record."""

from __future__ import annotations

from typing import Final, TypedDict

from lrclr.errors import UsageError

ACTIVATIONS: Final = ("quick_gelu", "gelu")


class ReadOptions(TypedDict, total=False):
    """Options of `load_checkpoint`, which documents them."""

    preprocess: str | None
    heads: tuple[int, ...] | None
    activation: str | None
    key: str | None
    tokenizer: str | None


def check_options(heads: tuple[int, ...] | None, activation: str | None) -> None:
    """Raise UsageError for values that no network has."""
    if heads is not None and not (
        1 <= len(heads) <= 2 and all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in heads)
    ):
        raise UsageError(
            f"{heads!r} are not numbers of attention heads", fix="Give the image tower's, or both towers': 16,16."
        )
    if activation is not None and activation not in ACTIVATIONS:
        raise UsageError(f"unknown activation {activation!r}", fix=f"Choose {' or '.join(ACTIVATIONS)}.")
