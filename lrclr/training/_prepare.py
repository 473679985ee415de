"""Preparation of a run: items, validation and checks, before the first step."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import TYPE_CHECKING, Any

import torch

from lrclr.datasets import SKIP, PixelCache, raise_bad_rows
from lrclr.errors import UsageError
from lrclr.training._augment import Augmentation
from lrclr.training._corpus import plural
from lrclr.training._data import Items
from lrclr.training._validation import Validation, label_table, matched_findings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from lrclr.checkpoints import Checkpoint
    from lrclr.datasets import Row
    from lrclr.training._corpus import Corpus
    from lrclr.training._listener import TrainListener
    from lrclr.training._settings import TrainSettings


def check_machine(settings: TrainSettings, processes: int) -> None:
    if settings.batch_size % processes:
        raise UsageError(
            f"a batch of {settings.batch_size} cannot be shared by {processes} processes",
            fix="Give a --batch-size that is a multiple of them; it counts the images of all processes.",
        )
    if settings.precision == "fp16" and not torch.cuda.is_available():
        raise UsageError("fp16 needs a GPU", why="its gradients are scaled there", fix="Choose bf16 or fp32.")
    if settings.precision == "bf16" and torch.cuda.is_available() and not torch.cuda.is_bf16_supported():
        raise UsageError("this GPU cannot compute in bf16", fix="Choose fp16 or fp32.")


def check_enough(rows: int, settings: TrainSettings, processes: int) -> None:
    if rows < processes:
        raise UsageError(
            f"there are {processes} processes for {plural(rows, 'training row')}", fix="Start fewer processes."
        )
    if rows < settings.batch_size:
        fewer = rows // processes * processes
        raise UsageError(
            f"a batch of {settings.batch_size} is larger than {plural(rows, 'training row')}",
            why="every image of a batch is compared with all others, so that a smaller batch is another task",
            fix=f"Add rows, or give --batch-size {fewer} or less." if fewer > 1 else "Add rows.",
        )


def report_rows(corpus: Corpus, listener: TrainListener, *, skip_bad_rows: bool) -> None:
    """Raise an error for bad rows, or report those that are left out."""
    if not skip_bad_rows:
        raise_bad_rows("the dataset", corpus.problems, len(corpus.train) + len(corpus.validation), fix=SKIP)
    for problem in corpus.problems:
        listener.problem(problem)
    for note in corpus.notes:
        listener.note(note)
    if not corpus.validation:
        listener.note("there are no rows of split 'validation': the last network is kept, not the best")


def prepare_items(
    base: Checkpoint,
    corpus: Corpus,
    settings: TrainSettings,
    place: Path,
    listener: TrainListener,
    *,
    skip_bad_rows: bool,
) -> tuple[Items, Validation | None]:
    def cached(rows: Sequence[Row], name: str) -> PixelCache:
        pixels = PixelCache.build(
            rows,
            base.preprocess,
            place / name,
            exact=settings.exact,
            on_progress=listener.prepared,
            on_note=listener.note,
        )
        if not skip_bad_rows:
            raise_bad_rows(f"the {name} images", pixels.read_errors, len(rows) - len(pixels.read_errors), fix=SKIP)
        for problem in pixels.read_errors:
            listener.problem(problem)
        return pixels

    plain = dataclasses.replace(settings, augmentation=Augmentation.off())
    pixels = cached(corpus.train, "train")
    items = Items(pixels, [corpus.texts[n] for n in pixels.positions], base.preprocess, settings)
    if not corpus.validation:
        return items, None
    pixels = cached(corpus.validation, "validation")
    findings, columns = matched_findings(base.findings, corpus.columns)
    judge = Validation(
        Items(pixels, [corpus.validation_texts[n] for n in pixels.positions], base.preprocess, plain),
        findings,
        label_table(pixels.kept(corpus.validation), columns),
        base.tokenizer,
        settings.batch_size,
        settings.workers,
    )
    _note_undefined(judge, listener)
    return items, judge


def _note_undefined(judge: Validation, listener: TrainListener) -> None:
    if judge.findings is None:
        listener.note("AUROC is not defined: the dataset has no labels of a finding of the base; see --findings")
        return
    names = [name for n, name in enumerate(judge.findings.names) if n not in judge.defined]
    if not judge.defined:
        listener.note("AUROC is not defined: no finding has images with and without it; the last network is kept")
    elif names:
        listener.note(f"AUROC is not defined for {', '.join(names)}: validation lacks images with it, or without it")


def run_record(
    base: Checkpoint,
    corpus: Corpus,
    hashes: dict[str, str | None],
    items: Items,
    judge: Validation | None,
    settings: TrainSettings,
) -> dict[str, Any]:
    """What the result depends on, for ``settings.json``, without paths and content of rows."""
    judged = len(judge.items) if judge is not None else 0
    unread = len(corpus.train) - len(items) + len(corpus.validation) - judged
    return {
        "schema_version": 1,
        "settings": settings.to_dict(),
        "base": {"sha256": base.sha256, "source": base.source, "preprocess": base.preprocess.to_dict()},
        **hashes,
        "rows": {
            "train": len(items),
            "validation": judged,
            "left_out": len(corpus.problems) + unread,
        },
        "findings": hashlib.sha256(base.findings.to_toml().encode()).hexdigest(),
    }
