"""Rows for training and validation, with their texts and notes about them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from lrclr.datasets import PRESENT, UNCERTAIN, RowProblem, check_apart, check_columns
from lrclr.errors import FindingsError, UsageError
from lrclr.training._texts import text_key, whole_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrclr.datasets import ImageDataset, Row
    from lrclr.text import ClipTokenizer


# From this share of rows with one text, most images of a batch are not negatives of each other.
_MOSTLY_ONE_TEXT: Final = 0.9


@dataclass(frozen=True, slots=True)
class Corpus:
    """Rows of a run.

    Attributes:
        train: rows to train on.
        texts: their texts.
        validation: validation rows; each has a text or a label, and those with a text come first.
        validation_texts: their texts; "" for rows without one.
        columns: names of the labels, in order.
        problems: rows that were left out, by the dataset or here.
        notes: information for the user, one sentence each, without patient data.
    """

    train: tuple[Row, ...]
    texts: tuple[str, ...]
    validation: tuple[Row, ...]
    validation_texts: tuple[str, ...]
    columns: tuple[str, ...]
    problems: tuple[RowProblem, ...]
    notes: tuple[str, ...]


def choose_rows(
    dataset: ImageDataset, validation: ImageDataset | None, tokenizer: ClipTokenizer, findings: Sequence[str] = ()
) -> Corpus:
    """Choose rows for training and validation, and leave out those without a text or label.

    In a dataset without splits all rows are for training. If `validation` is given, its rows of split "validation", or
    all if they have no split or the same one, are the validation rows.

    Args:
        dataset: the dataset.
        validation: another dataset to validate on.
        tokenizer: tokenizer of the network.
        findings: names of the model's findings.

    Raises:
        UsageError: there are no rows to train on; a column is not a finding; or a patient or an image is in both parts.
    """
    for table in (dataset, *([validation] if validation is not None else [])):
        check_columns(table, findings)
    trained = "train" if any(row.split for row in dataset.rows) else ""
    training = dataset.only(trained).rows
    if validation is None:
        judged = dataset.only("validation").rows
        problems = [*dataset.only(trained, "validation").problems]
    else:
        judging = validation.only_or_all("validation", fix="Write validation there, or leave the column out.")
        judged = judging.rows
        problems = [*dataset.only(trained).problems, *judging.problems]
    check_apart(
        training, judged, what="to validate on {} trained on as well", fix="Take them out of one of the two parts."
    )
    notes: list[str] = []
    if trained and (unused := dataset.unused()):
        notes.append(f"rows of other splits are not used: {unused}")
    kept, texts, cut = _readable(training, tokenizer, problems)
    with_text, said, _ = _readable(judged, tokenizer, [])
    known = {id(row) for row in with_text}
    others = [row for row in judged if id(row) not in known and _has_label(row)]
    if useless := len(judged) - len(with_text) - len(others):
        notes.append(f"{useless} of {plural(len(judged), 'validation row')} have neither a text nor a label")
    if not kept:
        splits = sorted({row.split for row in dataset.rows})
        why = f"its splits are {', '.join(map(repr, splits))}, and none is 'train'"
        if training:
            reasons = Counter(problem.text for problem in problems).most_common(3)
            why = "; ".join(f"{plural(count, 'row')}: {reason}" for reason, count in reasons)
        raise UsageError(f"{dataset.path} has no row to train on", why=why)
    if cut:
        notes.append(f"{cut} of {plural(len(kept), 'report')} are longer than the input of the text tower and are cut")
    notes += _notes_on(kept) + _notes_on_texts(texts)
    columns = validation.findings if validation is not None else dataset.findings
    return Corpus(
        train=tuple(kept),
        texts=tuple(texts),
        validation=tuple(with_text + others),
        validation_texts=(*said, *[""] * len(others)),
        columns=columns,
        problems=tuple(problems),
        notes=tuple(notes),
    )


def _readable(
    rows: Sequence[Row], tokenizer: ClipTokenizer, problems: list[RowProblem]
) -> tuple[list[Row], list[str], int]:
    """Rows with a text that the tokenizer accepts, their texts, and the number of texts that are cut."""
    kept: list[Row] = []
    texts: list[str] = []
    cut = 0
    for row in rows:
        text = whole_text(row)
        if text is None:
            problems.append(RowProblem(row.line, "it has no report, and no label of 1 or 0"))
            continue
        try:
            tokens = int(tokenizer.encode([text], truncate=True).mask.sum())
        except FindingsError:
            # The error of the tokenizer quotes the text.
            problems.append(RowProblem(row.line, "its report contains a marker of the tokenizer or invalid text"))
            continue
        # A text that fills the context exactly counts as cut: to know, it would have to be encoded again.
        cut += tokens == tokenizer.context_length
        kept.append(row)
        texts.append(text)
    return kept, texts, cut


def _has_label(row: Row) -> bool:
    return any(value != UNCERTAIN for value in row.labels.values())


def _notes_on(rows: Sequence[Row]) -> list[str]:
    notes = []
    without = sum(1 for row in rows if not any(character.isalnum() for character in row.report or ""))
    if without:
        notes.append(f"{without} of {plural(len(rows), 'training row')} have no report; their labels are the text")
    labelled = [row for row in rows if _has_label(row)]
    negative = sum(
        1
        for row in labelled
        if not any(value == PRESENT and not name.casefold().startswith("no ") for name, value in row.labels.items())
    )
    if negative:
        notes.append(f"{negative} of {plural(len(labelled), 'labelled training row')} name no finding as present")
    return notes


def _notes_on_texts(texts: Sequence[str]) -> list[str]:
    """A warning if nearly all texts are equal, as the loss compares them."""
    counts = Counter(map(text_key, texts))
    most = max(counts.values())
    if len(texts) == 1 or most < _MOSTLY_ONE_TEXT * len(texts):
        return []
    share = f"{len(counts) / len(texts):.1%} of the texts are distinct"
    loss = "images with equal texts are not told apart, so that training learns little or nothing"
    return [f"warning: {most} of {len(texts)} training rows have the same text, and {share}: {loss}"]


def plural(count: int, noun: str) -> str:
    """``3 rows``, ``1 row``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
