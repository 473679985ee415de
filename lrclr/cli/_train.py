"""`lrclr train`."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from lrclr._files import check_outside
from lrclr.cli._checkpoints import Activation, Heads, Key, Tokenizer, check_folder, note_assumed, read_options
from lrclr.cli._console import RESEARCH_ONLY, Exact, err, note, out
from lrclr.cli._extras import require
from lrclr.errors import LrclrError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lrclr.datasets import RowProblem
    from lrclr.training import TrainListener, TrainResult, TrainSettings

_PROBLEMS_SHOWN = 20
# Seconds that other processes wait before they raise an error. The first process usually meets the same error, prints
# it and ends all processes.
_OTHERS_WAIT_SECONDS = 5.0


def train(  # noqa: PLR0913, PLR0917 - one parameter an option
    dataset: Annotated[Path, typer.Argument(help="Dataset of images with reports or labels: .csv or .jsonl.")],
    base: Annotated[Path, typer.Option("--base", help="Checkpoint to start from, of any kind that lrclr reads.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the run.")],
    validation: Annotated[
        Path | None,
        typer.Option(
            "--validation",
            help="Dataset to validate on.  [default: the rows of DATASET whose split is validation, if there are any]",
        ),
    ] = None,
    epochs: Annotated[int, typer.Option("--epochs", help="Passes over the training data.")] = 10,
    max_steps: Annotated[int | None, typer.Option("--max-steps", help="Number of steps, instead of --epochs.")] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Images per step, over all processes.")] = 64,
    encode_at_once: Annotated[
        int, typer.Option("--encode-at-once", help="Images to encode at once, to save memory; 0 for the whole batch.")
    ] = 0,
    pairs_at_once: Annotated[
        int, typer.Option("--pairs-at-once", help="Image-text pairs to fuse at once, to save memory; 0 for all.")
    ] = 4096,
    learning_rate: Annotated[float, typer.Option("--lr", help="Learning rate of the fusion head.")] = 3e-4,
    tower_learning_rate: Annotated[float, typer.Option("--tower-lr", help="Learning rate of the towers.")] = 1e-5,
    weight_decay: Annotated[
        float, typer.Option("--weight-decay", help="Weight decay; not applied to biases, norms and embeddings.")
    ] = 0.05,
    warmup: Annotated[float, typer.Option("--warmup", help="Share of the steps with a rising learning rate.")] = 0.05,
    max_grad_norm: Annotated[
        float, typer.Option("--max-grad-norm", help="Norm to which gradients are clipped; 0 for no clipping.")
    ] = 1.0,
    precision: Annotated[str, typer.Option("--precision", help="fp32, bf16 or fp16.")] = "fp32",
    freeze: Annotated[
        str,
        typer.Option(
            "--freeze",
            help="Towers whose weights stay fixed: none, image, text or image,text. auto: image,text if the fusion "
            "head is not trained, else none.",
        ),
    ] = "auto",
    local_loss: Annotated[str, typer.Option("--local-loss", help="Local loss: none, pair or pair+words.")] = "pair",
    local_weight: Annotated[
        float, typer.Option("--local-weight", help="Weight of the local loss; the global loss has 1.")
    ] = 1.0,
    text: Annotated[
        str, typer.Option("--text", help="Text of an image: report, or sentences for a random part of the report.")
    ] = "report",
    exact: Exact = False,
    augment: Annotated[bool, typer.Option("--augment/--no-augment", help="Vary images at random.")] = True,
    region_rollout: Annotated[
        str | None, typer.Option("--region-rollout", help="Attention rollout that selects regions: per_head or mean.")
    ] = None,
    region_top_k: Annotated[
        int | None, typer.Option("--region-top-k", help="Patches to select; see lrclr convert --help.")
    ] = None,
    alpha: Annotated[float | None, typer.Option("--alpha", help="Weight of the local score, 0 to 1.")] = None,
    findings: Annotated[
        Path | None,
        typer.Option("--findings", help="Findings file (TOML), to validate with and to store in the checkpoint."),
    ] = None,
    preprocess: Annotated[
        str | None, typer.Option("--preprocess", help="clip, chexzero or siglip, instead of the base's preprocessing.")
    ] = None,
    heads: Heads = None,
    activation: Activation = None,
    key: Key = None,
    tokenizer: Tokenizer = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of order, texts and augmentation.")] = 0,
    workers: Annotated[
        int, typer.Option("--workers", help="Processes that prepare batches, per training process.")
    ] = 2,
    save_every: Annotated[
        int, typer.Option("--save-every", help="Steps between resumable states; 0 for once per epoch.")
    ] = 0,
    evaluate_every: Annotated[
        int, typer.Option("--evaluate-every", help="Steps between validations; 0 for once per epoch.")
    ] = 0,
    keep: Annotated[int, typer.Option("--keep", help="Resumable states to keep.")] = 2,
    cache: Annotated[
        Path | None, typer.Option("--cache", help="Folder for decoded images.  [default: in the folder of the run]")
    ] = None,
    skip_bad_rows: Annotated[
        bool,
        typer.Option("--skip-bad-rows", help="Leave out unusable rows and unreadable images, instead of stopping."),
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in the folder, if there is one.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing run in the folder.")] = False,
) -> None:
    """Train a checkpoint on images and their reports.

    DATASET has the columns that `lrclr evaluate --help` describes; a row needs a report or a label. A row that cannot
    be used, or an image that cannot be read, stops the command with exit code 1.

    On several GPUs, run torchrun --nproc-per-node N -m lrclr train … with the same options. A run that was stopped
    continues with --resume, and ends with the same weights as a run without interruption.
    """
    reading = read_options(heads, activation, key, preprocess, tokenizer)
    check_folder(base, reading)
    check_outside(output, [base])
    if overwrite:
        _check_kept(output, [base, dataset, validation, findings])
    require("train")
    from lrclr.checkpoints import load_checkpoint
    from lrclr.cli._findings import load_findings
    from lrclr.datasets import read_dataset
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
    with _first_process_reports():
        loaded = load_checkpoint(base, **reading)
        if _is_first():
            note_assumed(loaded.assumed)
        if findings is not None:
            loaded = loaded.changed(findings=load_findings(findings, loaded.findings, loaded.tokenizer))
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
        _conclude(result)


def _check_kept(folder: Path, inputs: list[Path | None]) -> None:
    """Raise UsageError if the folder of a run that is replaced contains something to read."""
    for each in inputs:
        if each is not None and folder.resolve() in (each.resolve(), *each.resolve().parents):
            raise UsageError(f"{each} is in {folder}, which --overwrite replaces", fix="Choose another folder.")


def _is_first() -> bool:
    return os.environ.get("RANK", "0") == "0"


@contextlib.contextmanager
def _first_process_reports() -> Iterator[None]:
    """Let the first of several processes report an error that all of them meet."""
    try:
        yield
    except LrclrError:
        if not _is_first():
            time.sleep(_OTHERS_WAIT_SECONDS)
        raise


@contextlib.contextmanager
def _shown(settings: TrainSettings) -> Iterator[TrainListener]:
    """Return a listener that prints events, and shows a progress bar if stderr is a terminal."""
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
                console.print("further rows that are left out are only counted")

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
    asked, rows = record["settings"], record["rows"]
    chosen = f"{asked['freeze']}{' (chosen for this base)' if settings.freeze == 'auto' else ''}"
    loss = asked["loss"]
    lines = {
        "rows": f"{rows['train']} to train on, {rows['validation']} to validate on",
        "steps": f"{record['steps']} of {asked['batch_size']} images",
        "frozen": chosen,
        "learning rate": f"{asked['learning_rate']:g}, towers {asked['tower_learning_rate']:g}",
        "local loss": f"{loss['local']}, weight {loss['local_weight']:g}",
        "text": asked["text"],
        "images": "read in full" if asked["exact"] else "read as lrclr predict does",
        "precision": asked["precision"],
        "seed": str(asked["seed"]),
    }
    table = Table(title="Training", title_justify="left", show_header=False)
    for name, value in lines.items():
        table.add_row(name, value)
    return table


def _conclude(result: TrainResult) -> None:
    if result.resumed_from:
        note(f"continued from step {result.resumed_from}")
    if result.auroc is None:
        out().print(f"{result.checkpoint}: the network of step {result.steps}; no AUROC on validation")
    else:
        out().print(
            f"{result.checkpoint}: the network of step {result.best_step} of {result.steps}, "
            f"mean AUROC on validation {result.auroc:.4f}"
        )
    note(f"{result.folder}: settings, environment, log and curves; {result.seconds:.0f} s")
    note(RESEARCH_ONLY)
