"""Which rows of a manifest, and which findings, an evaluation is about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lrclr.datasets import check_apart, check_columns
from lrclr.datasets._columns import is_known
from lrclr.errors import UsageError
from lrclr.text import FindingSet, finding_key

if TYPE_CHECKING:
    from lrclr.datasets import DataManifest, Row

__all__ = ["Selection", "select"]

_TEST = "test"


@dataclass(frozen=True)
class Selection:
    """What is evaluated.

    Attributes:
        split: name of the split; "" for every row of a manifest that names none.
        rows: what the figures are taken from.
        validation: what thresholds, alpha and score scale are fitted on; may be empty.
        findings: those asked for that the manifest has labels of.
        not_labelled: those asked for that it has none of.
        not_asked: findings that the manifest declares and that are neither asked for nor of a public data set.
    """

    split: str
    rows: tuple[Row, ...]
    validation: tuple[Row, ...]
    findings: FindingSet
    not_labelled: tuple[str, ...]
    not_asked: tuple[str, ...] = ()


def select(
    manifest: DataManifest,
    asked: FindingSet,
    *,
    split: str | None = None,
    validation_split: str = "validation",
    validation: DataManifest | None = None,
) -> Selection:
    """Choose rows and findings.

    Args:
        manifest: what to evaluate on.
        asked: findings, of which those stay that the manifest has a column for; names are compared by `finding_key`.
        split: which rows; if not given, "test", or the only split there is.
        validation_split: rows to fit on; none if there is no such split, or it is the one that is evaluated.
        validation: a manifest of its own to fit on: its `validation_split`, or all its rows if it has no such split.

    Raises:
        UsageError: there is no such split; no finding in common; a column that is no finding; or images or patients
            are both fitted on and evaluated.
    """
    chosen = _split(manifest, split, validation_split)
    rows = manifest.split(chosen) if chosen else manifest.rows
    if validation is not None:
        fitted = validation.split(validation_split) or validation.rows
    else:
        fitted = manifest.split(validation_split) if chosen != validation_split and chosen else ()
    for table in (manifest, *([validation] if validation is not None else [])):
        check_columns(table, asked.names)
    check_apart(rows, fitted, what="to fit on {} evaluated as well", fix="Take them out of one of the two parts.")
    if not rows:
        raise UsageError("the manifest has no rows that can be used", why=_problems(manifest))
    labelled = {finding_key(name) for name in manifest.findings}
    kept = tuple(finding for finding in asked.findings if finding_key(finding.name) in labelled)
    if not kept:
        raise UsageError(
            "the model's findings and the manifest's labels have nothing in common",
            why=f"the model has {', '.join(asked.names)}; the manifest has {', '.join(manifest.findings) or 'none'}",
            fix="Name the manifest's findings in a file, and give it with --findings.",
        )
    missing = tuple(name for name in asked.names if finding_key(name) not in labelled)
    wanted = {finding_key(name) for name in asked.names}
    unasked = tuple(name for name in manifest.findings if finding_key(name) not in wanted and not is_known(name))
    return Selection(chosen, rows, fitted, FindingSet(kept), missing, unasked)


def _split(manifest: DataManifest, split: str | None, validation_split: str) -> str:
    there = tuple(dict.fromkeys(row.split for row in manifest.rows))
    if split is not None:
        if split not in there:
            raise _no_split(f"the manifest has no split {split!r}", there)
        return split
    if _TEST in there:
        return _TEST
    others = [name for name in there if name != validation_split] or list(there)
    if len(others) > 1:
        raise _no_split("the manifest has no split 'test'", there)
    return others[0] if others else ""


def _no_split(what: str, there: tuple[str, ...]) -> UsageError:
    named = [name for name in there if name]
    return UsageError(what, why=f"it has {', '.join(named) or 'none'}", fix="Choose one with --split.")


def _problems(manifest: DataManifest) -> str | None:
    if not manifest.problems:
        return None
    first = manifest.problems[0]
    return f"{len(manifest.problems)} rows were left out, the first in line {first.line}: {first.text}"
