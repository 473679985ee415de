"""`train`: tunes a base checkpoint on a dataset."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate.utils import broadcast_object_list

from lrclr._signals import stop_signals_raise
from lrclr.checkpoints._checkpoint import eval_model
from lrclr.training._corpus import choose_rows
from lrclr.training._listener import ListenerCallback, TrainListener
from lrclr.training._prepare import check_enough, check_machine, prepare_items, report_rows, run_record
from lrclr.training._record import CHECKPOINT, PIXELS, STEPS, begin_run, check_run, draw_curves, model_card_of
from lrclr.training._task import ContrastiveTask
from lrclr.training._trainer import ContrastiveTrainer, training_arguments

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from lrclr.checkpoints import Checkpoint
    from lrclr.datasets import ImageDataset
    from lrclr.training._data import Items
    from lrclr.training._settings import TrainSettings
    from lrclr.training._validation import Validation


@dataclass(frozen=True, slots=True)
class TrainResult:
    """Result of a run.

    Attributes:
        folder: folder of the run.
        checkpoint: LRCLR folder with the best network by validation AUROC, or else with the last.
        steps: steps of the run.
        resumed_from: step from which the run was resumed, or 0.
        auroc, best_step: highest mean AUROC on validation, and its step; ``None`` if it is not defined.
        seconds: duration of this call.
    """

    folder: Path
    checkpoint: Path
    steps: int
    resumed_from: int
    auroc: float | None
    best_step: int | None
    seconds: float


def train(  # noqa: PLR0913 - what a run consists of
    base: Checkpoint,
    dataset: ImageDataset,
    folder: Path,
    settings: TrainSettings,
    *,
    validation: ImageDataset | None = None,
    cache: Path | None = None,
    skip_bad_rows: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    listener: TrainListener | None = None,
) -> TrainResult:
    """Tune a checkpoint on images and their reports.

    Under ``torchrun`` every process calls it with the same arguments, and the first one writes.

    Args:
        base: base checkpoint. Its network is tuned in place; afterwards it is that of the last step.
        dataset: rows of split "train" (all rows without splits) and "validation".
        folder: folder of the run.
        settings: settings.
        validation: dataset to validate on, instead of rows of `dataset`.
        cache: folder for decoded images; by default inside `folder`.
        skip_bad_rows: leave out bad rows and unreadable images, instead of raising an error.
        resume: resume the run in `folder` from its last saved state; start one if there is none.
        overwrite: replace the run in `folder`.
        listener: callbacks.

    Raises:
        UsageError: the call is wrong, or the data cannot be used.
        NonFiniteError: loss or gradients are NaN or infinite.
        LrclrError: a row or an image cannot be used and `skip_bad_rows` is False; or the disk is full or not writable.
            The last saved state and checkpoint are complete.
    """
    start = time.monotonic()
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    first = int(os.environ.get("RANK", "0")) == 0
    callbacks = listener if listener is not None and first else TrainListener()
    folder = Path(os.path.abspath(folder))  # noqa: PTH100 - resolve() would replace what a link points to
    settings = settings.resolved(fusion_trained=base.config.fusion_trained)
    if first:
        check_run(folder, resume=resume, overwrite=overwrite)
    check_machine(settings, processes)
    corpus = choose_rows(dataset, validation, base.tokenizer, base.findings.names)
    report_rows(corpus, callbacks, skip_bad_rows=skip_bad_rows)
    check_enough(len(corpus.train), settings, processes)
    settings.configure(base.config)
    if settings.tunes_fusion:
        # From now on its score counts, in validation and in the saved checkpoint.
        base.config.fusion_trained = True
        base.config.local_loss_weight = settings.loss.local_weight
    per_epoch = len(corpus.train) // settings.batch_size
    steps = settings.max_steps or settings.epochs * per_epoch
    with stop_signals_raise():
        arguments = training_arguments(settings, folder / STEPS, steps, per_epoch)
        place = cache if cache is not None else folder / PIXELS
        with arguments.main_process_first(local=False, desc="decoding images"):
            items, judge = prepare_items(base, corpus, settings, place, callbacks, skip_bad_rows=skip_bad_rows)
        if len(items) < settings.batch_size:
            check_enough(len(items), settings, processes)
        hashes = {"manifest": dataset.sha256, "validation": validation.sha256 if validation is not None else None}
        record = run_record(base, corpus, hashes, items, judge, settings) | {"steps": steps}
        base = replace(base, card=model_card_of(record, base.card))
        state: list[Any] = [None]
        if first:
            state[0] = begin_run(folder, record, settings, overwrite=overwrite)
            callbacks.begun(record)
        state = broadcast_object_list(state)
        return _run(base, folder, settings, arguments, items, judge, state[0], callbacks, start)


def _run(  # noqa: PLR0913, PLR0917 - the prepared parts of a run
    base: Checkpoint,
    folder: Path,
    settings: TrainSettings,
    arguments: TrainingArguments,
    items: Items,
    judge: Validation | None,
    state: Path | None,
    listener: TrainListener,
    start: float,
) -> TrainResult:
    def save() -> None:
        base.save(folder / CHECKPOINT, overwrite=True)

    trainer = ContrastiveTrainer(
        ContrastiveTask(base.model, settings.loss),
        arguments,
        settings,
        items=items,
        tokenizer=base.tokenizer,
        validation=judge,
        on_best=save,
    )
    if trainer.is_world_process_zero():
        trainer.add_callback(ListenerCallback(folder, listener))
    resumed_from = int(state.name.rpartition("-")[2]) if state is not None else 0
    # Evaluate the base too, for comparison.
    trainer.args.eval_on_start = state is None and judge is not None
    trainer.train(resume_from_checkpoint=str(state) if state is not None else None)
    eval_model(base.model)
    best_step = trainer.state.best_global_step or None
    if trainer.is_world_process_zero():
        if best_step is None:
            save()
        draw_curves(folder, trainer.state.log_history)
    trainer.accelerator.wait_for_everyone()
    return TrainResult(
        folder,
        folder / CHECKPOINT,
        arguments.max_steps,
        resumed_from,
        trainer.state.best_metric,
        best_step,
        time.monotonic() - start,
    )
