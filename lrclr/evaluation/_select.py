"""Which rows of a dataset, and which findings, an evaluation is about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lrclr.datasets import check_apart, check_columns
from lrclr.datasets._columns import is_known
from lrclr.errors import UsageError
from lrclr.text import FindingSet, finding_key

if TYPE_CHECKING:
    from lrclr.datasets import ImageDataset, Row

__all__ = ["Selection", "select"]

_TEST = "test"


@dataclass(frozen=True)
class Selection:
    """What is evaluated.

    Attributes:
        split: name of the split; "" for every row of a dataset that names none.
        rows: what the figures are taken from.
        validation: what thresholds, alpha and score scale are fitted on; may be empty.
        findings: those asked for that the dataset has labels of.
        not_labelled: those asked for that it has none of.
        not_asked: findings that the dataset declares and that are neither asked for nor of a public data set.
    """

    split: str
    rows: tuple[Row, ...]
    validation: tuple[Row, ...]
    findings: FindingSet
    not_labelled: tuple[str, ...]
    not_asked: tuple[str, ...] = ()


def select(
    dataset: ImageDataset,
    asked: FindingSet,
    *,
    split: str | None = None,
    validation_split: str = "validation",
    validation: ImageDataset | None = None,
) -> Selection:
    """Choose rows and findings.

    Args:
        dataset: what to evaluate on.
        asked: findings, of which those stay that the dataset has a column for; names are compared by `finding_key`.
        split: which rows; if not given, "test", or the only split there is.
        validation_split: rows to fit on; none if there is no such split, or it is the one that is evaluated.
        validation: a dataset of its own to fit on: its `validation_split`, or all its rows if it has no such split.

    Raises:
        UsageError: there is no such split; no finding in common; a column that is no finding; or images or patients
            are both fitted on and evaluated.
    """
    chosen = _split(dataset, split, validation_split)
    rows = dataset.split(chosen) if chosen else dataset.rows
    if validation is not None:
        fitted = validation.split(validation_split) or validation.rows
    else:
        fitted = dataset.split(validation_split) if chosen != validation_split and chosen else ()
    for table in (dataset, *([validation] if validation is not None else [])):
        check_columns(table, asked.names)
    check_apart(rows, fitted, what="to fit on {} evaluated as well", fix="Take them out of one of the two parts.")
    if not rows:
        raise UsageError("the dataset has no rows that can be used", why=_problems(dataset))
    labelled = {finding_key(name) for name in dataset.findings}
    kept = tuple(finding for finding in asked.findings if finding_key(finding.name) in labelled)
    if not kept:
        raise UsageError(
            "the model's findings and the dataset's labels have nothing in common",
            why=f"the model has {', '.join(asked.names)}; the dataset has {', '.join(dataset.findings) or 'none'}",
            fix="Name the dataset's findings in a file, and give it with --findings.",
        )
    missing = tuple(name for name in asked.names if finding_key(name) not in labelled)
    wanted = {finding_key(name) for name in asked.names}
    unasked = tuple(name for name in dataset.findings if finding_key(name) not in wanted and not is_known(name))
    return Selection(chosen, rows, fitted, FindingSet(kept), missing, unasked)


def _split(dataset: ImageDataset, split: str | None, validation_split: str) -> str:
    there = tuple(dict.fromkeys(row.split for row in dataset.rows))
    if split is not None:
        if split not in there:
            raise _no_split(f"the dataset has no split {split!r}", there)
        return split
    if _TEST in there:
        return _TEST
    others = [name for name in there if name != validation_split] or list(there)
    if len(others) > 1:
        raise _no_split("the dataset has no split 'test'", there)
    return others[0] if others else ""


def _no_split(what: str, there: tuple[str, ...]) -> UsageError:
    named = [name for name in there if name]
    return UsageError(what, why=f"it has {', '.join(named) or 'none'}", fix="Choose one with --split.")


def _problems(dataset: ImageDataset) -> str | None:
    if not dataset.problems:
        return None
    first = dataset.problems[0]
    return f"{len(dataset.problems)} rows were left out, the first in line {first.line}: {first.text}"
