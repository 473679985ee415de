"""The rows and findings of an evaluation."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lrclr.datasets import SKIP, UNCERTAIN, check_apart, check_columns, raise_bad_rows, split_key
from lrclr.datasets._columns import nearest_finding
from lrclr.datasets._rows import USUAL_SPLITS
from lrclr.errors import UsageError
from lrclr.text import FindingSet, finding_key

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lrclr.datasets import ImageDataset, Row, RowProblem

_TRAIN, _VALIDATION, _TEST = USUAL_SPLITS
_NONE = "none"
_CHOOSE, _CHOOSE_VALIDATION = "Choose one with --split.", "Choose one with --validation-split."


@dataclass(frozen=True)
class Selection:
    """What is evaluated.

    Attributes:
        split: name of the split; "" for the rows without a split.
        validation_split: name of the split to fit on; "" for the rows without a split, and if there is none.
        rows: rows to compute the figures from.
        problems: rows of that split that cannot be used.
        validation: rows to fit thresholds, alpha and calibration on; may be empty.
        findings: the requested findings for which the dataset has labels.
        not_labelled: the requested findings for which it has none.
        validation_problems: rows of the split to fit on that cannot be used.
        not_asked: findings of the dataset that are not requested, to the requested one of a similar name, or None.
        unused: number and split of rows of unusual splits that are not used, as a text; may be empty.
        unlabelled_places: for each finding, the number of rows with a mask or box but without a label.
        uncertain_places: for each finding, the number of rows with a mask or box in which it is uncertain.
        listed: whether the dataset names findings in ``findings``.
    """

    split: str
    rows: tuple[Row, ...]
    problems: tuple[RowProblem, ...]
    validation: tuple[Row, ...]
    findings: FindingSet
    not_labelled: tuple[str, ...]
    validation_split: str = ""
    validation_problems: tuple[RowProblem, ...] = ()
    not_asked: Mapping[str, str | None] = field(default_factory=dict)
    unused: str = ""
    unlabelled_places: Mapping[str, int] = field(default_factory=dict)
    uncertain_places: Mapping[str, int] = field(default_factory=dict)
    listed: bool = False


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
        dataset: dataset to evaluate on.
        asked: requested findings. Names are compared with the dataset's by `finding_key`.
        split: split to evaluate; by default "test", or the only split beside the one to fit on, but not "train".
        validation_split: split to fit on, unless it is the evaluated one. Only "validation" need not exist; "none" for
            no fit.
        validation: another dataset to fit on: its `validation_split`, or all rows if they have no split or the same.

    Raises:
        UsageError: a split does not exist; model and dataset have no finding in common; a column is not a finding;
            or an image or a patient is in both the rows to fit on and those to evaluate.
    """
    chosen, evaluated, fitted = _parts(dataset, split, validation_split, validation)
    rows, problems = evaluated.rows, evaluated.problems
    for table in (dataset, *([validation] if validation is not None else [])):
        check_columns(table, asked.names)
    check_apart(rows, fitted.rows, what="to fit on {} evaluated as well", fix="Take them out of one of the two parts.")
    if not rows:
        raise UsageError("the dataset has no rows that can be used", why=_of_problems(problems))
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
    unasked = (name for name in dataset.findings if finding_key(name) not in wanted)
    return Selection(
        chosen,
        rows,
        problems,
        fitted.rows,
        FindingSet(kept),
        missing,
        validation_split=fitted.rows[0].split if fitted.rows else "",
        validation_problems=fitted.problems,
        not_asked={name: nearest_finding(name, asked.names) for name in unasked},
        unused=dataset.unused(chosen, validation_split),
        unlabelled_places=_places(rows, wanted, None),
        uncertain_places=_places(rows, wanted, UNCERTAIN),
        listed=dataset.listed,
    )


def check_rows(
    dataset: ImageDataset,
    *,
    split: str | None = None,
    validation_split: str = "validation",
    validation: ImageDataset | None = None,
) -> None:
    """Check that all rows can be used which `select` would take. Rows of other splits need not have files.

    The arguments are those of `select`.

    Raises:
        LrclrError: a row cannot be used.
        UsageError: a split does not exist.
    """
    _, *parts = _parts(dataset, split, validation_split, validation)
    for table in dict.fromkeys(str(part.path) for part in parts):
        own = [part for part in parts if str(part.path) == table]
        # A row whose split is not known is in both parts.
        problems = tuple(dict.fromkeys(problem for part in own for problem in part.problems))
        raise_bad_rows(table, problems, sum(len(part.rows) for part in own), fix=SKIP)


def _parts(
    dataset: ImageDataset, split: str | None, validation_split: str, validation: ImageDataset | None
) -> tuple[str, ImageDataset, ImageDataset]:
    """The name of the split to evaluate, its rows, and those to fit on. The arguments are those of `select`."""
    chosen = _split(dataset, split, validation_split)
    if split_key(validation_split) == _NONE:
        fitted = dataset.only()
    elif validation is not None:
        fitted = validation.only_or_all(validation_split, fix=_CHOOSE_VALIDATION)
    elif split_key(chosen) == split_key(validation_split):
        fitted = dataset.only()
    elif split_key(validation_split) in {_VALIDATION, *dataset.splits}:
        fitted = dataset.only(validation_split)
    else:
        raise dataset.no_split(validation_split, fix=_CHOOSE_VALIDATION)
    return chosen, dataset.only(chosen), fitted


def _places(rows: Sequence[Row], wanted: set[str], label: int | None) -> dict[str, int]:
    """For each finding, the number of rows with a mask or box of it and this label."""
    counts: Counter[str] = Counter()
    for row in rows:
        # A mask of bits belongs to all findings of its row.
        masked = (name for name, (_, bit) in row.masks.items() if bit is None)
        counts.update(name for name in {*masked, *row.boxes} if row.labels.get(name) == label)
    return {name: count for name, count in counts.items() if finding_key(name) in wanted}


def _split(dataset: ImageDataset, split: str | None, validation_split: str) -> str:
    """The split to evaluate, as the dataset spells it."""
    there = dataset.splits
    if split is not None:
        if split_key(split) not in there:
            raise dataset.no_split(split, fix=_CHOOSE)
        return there[split_key(split)]
    if _TEST in there:
        return there[_TEST]
    others = [key for key in there if key != split_key(validation_split)] or list(there)
    if len(others) > 1 or (others == [_TRAIN] and len(there) > 1):
        raise dataset.no_split(_TEST, fix=_CHOOSE)
    return there[others[0]] if others else ""


def _of_problems(problems: Sequence[RowProblem]) -> str | None:
    if not problems:
        return None
    return f"{len(problems)} rows were left out, the first in line {problems[0].line}: {problems[0].text}"
