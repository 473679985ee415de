"""`lrclr train`."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path  # noqa: TC003 - typer reads annotations
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from lrclr.cli._checkpoints import Activation, Heads, Key, note_assumed, read_options
from lrclr.cli._console import EXACT_HELP, RESEARCH_ONLY, err, note, out
from lrclr.cli._extras import require_train
from lrclr.errors import LrclrError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lrclr.datasets import RowProblem
    from lrclr.training import TrainListener, TrainResult, TrainSettings

_PROBLEMS_SHOWN = 20
# Other processes wait with their error: usually the first one reports the same error and ends them.
_ERROR_DELAY_SECONDS = 5.0


def train(  # noqa: PLR0913, PLR0917 - one parameter an option
    dataset: Annotated[Path, typer.Argument(help="Images with reports or labels: .csv or .jsonl.")],
    base: Annotated[Path, typer.Option("--base", help="Base checkpoint, in any format that lrclr reads.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The run's folder.")],
    validation: Annotated[Path | None, typer.Option("--validation", help="Another dataset to validate on.")] = None,
    epochs: Annotated[int, typer.Option("--epochs", help="Passes over the training rows.")] = 10,
    max_steps: Annotated[int | None, typer.Option("--max-steps", help="Optimiser steps, instead of --epochs.")] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Images of a step, over all processes.")] = 64,
    encode_at_once: Annotated[
        int, typer.Option("--encode-at-once", help="Images encoded at once, to save memory; 0: all.")
    ] = 0,
    pairs_at_once: Annotated[
        int, typer.Option("--pairs-at-once", help="Image-text pairs fused at once; 0: all.")
    ] = 4096,
    learning_rate: Annotated[float, typer.Option("--lr", help="Learning rate of the fusion head.")] = 3e-4,
    tower_learning_rate: Annotated[float, typer.Option("--tower-lr", help="Learning rate of the towers.")] = 1e-5,
    weight_decay: Annotated[
        float, typer.Option("--weight-decay", help="Decay of weights; not of biases, norms and embeddings.")
    ] = 0.05,
    warmup: Annotated[float, typer.Option("--warmup", help="Share of the steps for warm-up.")] = 0.05,
    max_grad_norm: Annotated[float, typer.Option("--max-grad-norm", help="Gradients are clipped to it; 0: off.")] = 1.0,
    precision: Annotated[str, typer.Option("--precision", help="fp32, bf16 or fp16.")] = "fp32",
    freeze: Annotated[
        str,
        typer.Option(
            "--freeze",
            help="none, image, text or image,text; auto: image,text if the fusion head is not trained.",
        ),
    ] = "auto",
    local_loss: Annotated[str, typer.Option("--local-loss", help="none, pair or pair+words.")] = "pair",
    local_weight: Annotated[float, typer.Option("--local-weight", help="Weight of the local loss.")] = 1.0,
    text: Annotated[str, typer.Option("--text", help="report, or sentences: a random part of it.")] = "report",
    exact: Annotated[bool, typer.Option("--exact", help=EXACT_HELP)] = False,
    augment: Annotated[bool, typer.Option("--augment/--no-augment", help="Change images slightly at random.")] = True,
    region_rollout: Annotated[str | None, typer.Option("--region-rollout", help="per_head or mean.")] = None,
    region_top_k: Annotated[int | None, typer.Option("--region-top-k", help="Patches to select.")] = None,
    alpha: Annotated[float | None, typer.Option("--alpha", help="Weight of the local score, 0 to 1.")] = None,
    findings: Annotated[
        Path | None, typer.Option("--findings", help="A findings file, for validation and for the checkpoint.")
    ] = None,
    preprocess: Annotated[
        str | None, typer.Option("--preprocess", help="clip or chexzero, instead of the base's.")
    ] = None,
    heads: Heads = None,
    activation: Activation = None,
    key: Key = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of order, texts and augmentation.")] = 0,
    workers: Annotated[int, typer.Option("--workers", help="Processes that prepare batches, for each process.")] = 2,
    save_every: Annotated[int, typer.Option("--save-every", help="Steps between resumable states; 0: an epoch.")] = 0,
    evaluate_every: Annotated[
        int, typer.Option("--evaluate-every", help="Steps between validations; 0: an epoch.")
    ] = 0,
    keep: Annotated[int, typer.Option("--keep", help="Resumable states to keep.")] = 2,
    cache: Annotated[Path | None, typer.Option("--cache", help="Folder for decoded images; else in OUTPUT.")] = None,
    skip_bad_rows: Annotated[
        bool, typer.Option("--skip-bad-rows", help="Leave out bad rows and unreadable images instead of stopping.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Resume the run in the folder, if there is one.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in the folder.")] = False,
) -> None:
    """Tune a checkpoint on images and their reports.

    DATASET has the columns that `lrclr evaluate --help` describes; a row needs a report or a label. A bad row or an
    unreadable image ends the command with exit code 1.

    Several GPUs: torchrun --nproc-per-node N -m lrclr train … with the same options. An interrupted run continues with
    --resume and ends with the same weights as an uninterrupted one.
    """
    reading = read_options(heads, activation, key, preprocess)
    require_train()
    from dataclasses import replace

    from lrclr.checkpoints import load_checkpoint
    from lrclr.datasets import read_dataset
    from lrclr.text import FindingSet
    from lrclr.training import Augmentation, LossSettings, TrainSettings
    from lrclr.training import train as tune

    settings = TrainSettings(
        epochs=epochs,
        max_steps=max_steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        tower_learning_rate=tower_learning_rate,
        weight_decay=weight_decay,
        warmup=warmup,
        max_grad_norm=max_grad_norm,
        precision=cast("Any", precision),
        freeze=cast("Any", freeze),
        seed=seed,
        workers=workers,
        save_every=save_every,
        evaluate_every=evaluate_every,
        keep=keep,
        text=cast("Any", text),
        exact=exact,
        augmentation=Augmentation() if augment else Augmentation.off(),
        loss=LossSettings(cast("Any", local_loss), local_weight, encode_at_once, pairs_at_once),
        region_rollout=cast("Any", region_rollout),
        region_top_k=region_top_k,
        alpha=alpha,
    )
    with _delayed_errors():
        loaded = load_checkpoint(base, **reading)
        if _is_first():
            note_assumed(loaded.assumed)
        if findings is not None:
            loaded = replace(loaded, findings=FindingSet.load(findings))
        data = read_dataset(dataset, findings=loaded.findings.names)
        judged = read_dataset(validation, findings=loaded.findings.names) if validation is not None else None
        with _shown(settings) as listener:
            result = tune(
                loaded,
                data,
                output,
                settings,
                validation=judged,
                cache=cache,
                skip_bad_rows=skip_bad_rows,
                resume=resume,
                overwrite=overwrite,
                listener=listener,
            )
    if _is_first():
        _print_result(result)


def _is_first() -> bool:
    return os.environ.get("RANK", "0") == "0"


@contextlib.contextmanager
def _delayed_errors() -> Iterator[None]:
    """Delay errors of all processes but the first, which usually reports the same error and ends the others."""
    try:
        yield
    except LrclrError:
        if not _is_first():
            time.sleep(_ERROR_DELAY_SECONDS)
        raise


@contextlib.contextmanager
def _shown(settings: TrainSettings) -> Iterator[TrainListener]:
    """A listener that prints, with progress bars if stderr is a terminal."""
    from lrclr.training import TrainListener

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[detail]}", markup=False),
    )
    console = err()
    bars = Progress(*columns, console=console, disable=not console.is_terminal or not _is_first())
    problems = 0

    class Shown(TrainListener):
        def __init__(self) -> None:
            self.images = bars.add_task("images", total=None, visible=False, detail="")
            self.steps = bars.add_task("training", total=None, visible=False, detail="")

        def note(self, text: str) -> None:
            console.print(f"- {text}")

        def problem(self, problem: RowProblem) -> None:
            nonlocal problems
            problems += 1
            if problems <= _PROBLEMS_SHOWN:
                console.print(f"line {problem.line} is left out: {problem.text}")
            elif problems == _PROBLEMS_SHOWN + 1:
                console.print("further rows that are left out are counted only")

        def prepared(self, done: int, total: int, rate: float) -> None:
            bars.update(self.images, total=total, completed=done, visible=total > 1, detail=f"{rate:.0f}/s")

        def begun(self, record: dict[str, Any]) -> None:
            if problems:
                console.print(f"{problems} {'row is' if problems == 1 else 'rows are'} left out")
            console.print(_settings_table(record, settings))

        def step(self, step: int, steps: int, loss: float | None) -> None:
            detail = "" if loss is None else f"loss {loss:.4f}"
            bars.update(self.steps, total=steps, completed=step, visible=True, detail=detail)

        def evaluated(self, step: int, metrics: dict[str, float]) -> None:
            found = (f"{name} {metrics[name]:.4f}" for name in _METRICS if name in metrics)
            console.print(f"step {step}: {', '.join(found)}")

    with bars:
        yield Shown()


_METRICS = ("loss", "auroc", "auroc_global", "auroc_local")


def _settings_table(record: dict[str, Any], settings: TrainSettings) -> Table:
    used, rows = record["settings"], record["rows"]
    chosen = f"{used['freeze']}{' (chosen for this base)' if settings.freeze == 'auto' else ''}"
    loss = used["loss"]
    lines = {
        "rows": f"{rows['train']} to train on, {rows['validation']} to validate on",
        "steps": f"{record['steps']} of {used['batch_size']} images",
        "frozen": chosen,
        "learning rate": f"{used['learning_rate']:g}, towers {used['tower_learning_rate']:g}",
        "local loss": f"{loss['local']}, weight {loss['local_weight']:g}",
        "text": used["text"],
        "images": "read in full" if used["exact"] else "read as lrclr predict does",
        "precision": used["precision"],
        "seed": str(used["seed"]),
    }
    table = Table(title="Training", title_justify="left", show_header=False)
    for name, value in lines.items():
        table.add_row(name, value)
    return table


def _print_result(result: TrainResult) -> None:
    if result.resumed_from:
        note(f"resumed from step {result.resumed_from}")
    if result.auroc is None:
        out().print(f"{result.checkpoint}: the network of step {result.steps}; no AUROC on validation")
    else:
        out().print(
            f"{result.checkpoint}: the network of step {result.best_step} of {result.steps}, "
            f"mean AUROC on validation {result.auroc:.4f}"
        )
    note(f"{result.folder}: settings, environment, log and curves; {result.seconds:.0f} s")
    note(RESEARCH_ONLY)
