"""The option --findings: reading the file, naming it in errors, and the note on findings without prompts."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from lrclr.cli._console import note
from lrclr.errors import FindingsError
from lrclr.text import FindingSet, check_prompts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lrclr.text import ClipTokenizer

_NAMES_SHOWN = 5


def load_findings(path: Path, own: FindingSet | None, tokenizer: ClipTokenizer | None) -> FindingSet:
    """Read a findings file for a model. Print a note if findings lack prompts like those of the model.

    Args:
        path: the file.
        own: the model's findings; None if they are not known yet.
        tokenizer: the model's; None if a server has it.

    Raises:
        FindingsError: the file cannot be used, or a prompt is too long. The text names the file.
    """
    findings = FindingSet.load(path)
    if tokenizer is not None:
        with naming_file(path):
            check_prompts(findings, tokenizer)
    if own is not None and (bare := findings.bare(own)):
        more = f" and {len(bare) - _NAMES_SHOWN} more" if len(bare) > _NAMES_SHOWN else ""
        names = ", ".join(bare[:_NAMES_SHOWN]) + more
        note(
            f'warning: {path} gives no prompts for {names}: only the name is compared, as "{bare[0]}" with '
            f'"no {bare[0]}". This model has prompts in sentences, and probabilities for bare names can be far off. '
            "Copy prompts from the bundle's findings.toml; docs/howto/prompts.md shows the difference."
        )
    return findings


@contextlib.contextmanager
def naming_file(path: Path | None) -> Iterator[None]:
    """Put the name of the findings file before errors about findings."""
    try:
        yield
    except FindingsError as error:
        if path is None:
            raise
        raise FindingsError(f"{path}: {error.what}", why=error.why, fix=error.fix) from error
