"""The folder of a run: settings, environment, log and curves, and whether a run may use it."""

from __future__ import annotations

import csv
import io
import json
import os
import platform
import re
import shutil
from typing import TYPE_CHECKING, Any, Final

import torch

from lrclr._files import check_is_folder, own_entries, write_whole
from lrclr._processors import processors
from lrclr._version import __version__, installed_versions
from lrclr.card import ModelCard
from lrclr.errors import LrclrError, UsageError
from lrclr.training._trainer import best_step_of, last_state

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from lrclr.training._settings import TrainSettings

SETTINGS: Final = "settings.json"
ENVIRONMENT: Final = "environment.json"
LOG: Final = "log.csv"
CURVES: Final = "curves.png"
CHECKPOINT: Final = "checkpoint"
STEPS: Final = "steps"
PIXELS: Final = "pixels"
OWN: Final = (SETTINGS, ENVIRONMENT, LOG, CURVES, CHECKPOINT, STEPS, PIXELS)
# Left by a process that was killed during a save.
_LEFTOVER: Final = re.compile(r"\..+\.(partial|old|lock)")
_PACKAGES: Final = ("torch", "transformers", "accelerate", "safetensors", "tokenizers", "numpy", "pillow")
_FIRST_COLUMNS: Final = ("step", "epoch", "loss", "global_loss", "local_loss", "eval_loss")


def check_run(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Check the folder of a run before any work.

    Raises:
        UsageError: it is not a folder, holds other files, or holds a run that may be neither resumed nor replaced.
    """
    if resume and overwrite:
        raise UsageError("--resume and --overwrite cannot be used together")
    check_is_folder(folder)
    names = own_entries(folder, lambda name: name in OWN or _LEFTOVER.fullmatch(name))
    if any(name in OWN and name != PIXELS for name in names) and not resume and not overwrite:
        raise UsageError(f"{folder} already holds a run", fix="Choose another folder, or add --resume or --overwrite.")


def begin_run(folder: Path, record: Mapping[str, Any], settings: TrainSettings, *, overwrite: bool) -> Path | None:
    """Write the settings of a run; returns the saved state to resume from, or None.

    Raises:
        UsageError: the existing run has other settings.
        LrclrError: the folder cannot be written, or a file of the run is damaged or missing.
    """
    if not overwrite and any((folder / name).exists() for name in (SETTINGS, STEPS, CHECKPOINT)):
        _check_same(folder / SETTINGS, record, settings)
        _sweep(folder)
        state = last_state(folder / STEPS)
        best = None if state is None else best_step_of(state)
        if best and not (folder / CHECKPOINT).exists():
            raise LrclrError(
                f"{folder / CHECKPOINT} is missing",
                why=f"it had the best network so far, of step {best}",
                fix="Put it back, or start the run again with --overwrite.",
            )
        return state
    for name in OWN:
        if name != PIXELS:
            _delete(folder / name)
    _sweep(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / ENVIRONMENT, environment())
    _write_json(folder / SETTINGS, record)
    return None


def _sweep(folder: Path) -> None:
    """Delete partial files of a killed process, which may have gigabytes."""
    for place in (folder, folder / STEPS):
        for entry in place.glob(".*"):
            if _LEFTOVER.fullmatch(entry.name):
                _delete(entry)


def _delete(entry: Path) -> None:
    if entry.is_dir():
        shutil.rmtree(entry)
    else:
        entry.unlink(missing_ok=True)


def _check_same(file: Path, record: Mapping[str, Any], settings: TrainSettings) -> None:
    try:
        before = json.loads(file.read_text("utf-8"))
        changed = settings.differences(before["settings"])
        # Key in the record to the name in the error.
        names = {
            "base": "base",
            "manifest": "dataset",
            "validation": "validation",
            "rows": "rows",
            "findings": "findings",
        }
        changed += [name for key, name in names.items() if before[key] != record[key]]
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise LrclrError(f"{file} is damaged or missing", fix="Start the run again with --overwrite.") from error
    if changed:
        raise UsageError(
            f"the run in {file.parent} cannot be resumed with other settings",
            why=f"it differs in {', '.join(changed)}",
            fix="Use its settings, or choose another folder.",
        )


def environment() -> dict[str, Any]:
    """Versions and machine, without names and paths."""
    devices = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {
        "lrclr": __version__,
        "python": platform.python_version(),
        "packages": installed_versions(_PACKAGES),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": processors(),
        "devices": devices,
        "threads": torch.get_num_threads(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
    }


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    write_whole(file, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def model_card_of(record: Mapping[str, Any], base: ModelCard) -> ModelCard:
    """What a run knows for the model card of its checkpoint: counts, hashes and settings, and no content of rows.

    Args:
        record: see `run_record`.
        base: the card of the base. What it states about its training data stays true. The rest is about other weights.
    """
    rows, settings, source = record["rows"], record["settings"], record["base"]
    data = [f"{rows['train']} images with texts, of a dataset whose table has the SHA-256 {record['manifest']}."]
    if "training_data" in base.texts:
        earlier = base.texts["training_data"]
        data += [f"Of the base: {text}" for text in (earlier.split("\n\n") if isinstance(earlier, str) else earlier)]
    frozen, local = settings["freeze"], settings["loss"]["local"]
    procedure = [
        f"Tuned by lrclr {__version__} from a base ({source['source']}, SHA-256 {source['sha256'] or 'not defined'}).",
        f"{record['steps']} steps of {settings['batch_size']} images in {settings['precision']}.",
        f"Towers with fixed weights: {frozen}. Local loss: {local}. Seed: {settings['seed']}.",
        f"Validation on {rows['validation']} images.",
    ]
    return ModelCard({"training_data": tuple(data), "training_procedure": tuple(procedure)})


def write_log(folder: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Write the log: one line for each logged step, with the validation figures of the step."""
    lines: dict[int, dict[str, Any]] = {}
    for entry in history:
        lines.setdefault(entry["step"], {}).update(entry)
    names = sorted({name for line in lines.values() for name in line} - set(_FIRST_COLUMNS))
    columns = [*_FIRST_COLUMNS, *names]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines[step] for step in sorted(lines))
    write_whole(folder / LOG, text.getvalue().encode())


def draw_curves(folder: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Draw losses and AUROC over the steps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    parts = (
        (left, {"loss": "training", "global_loss": "global", "local_loss": "local", "eval_loss": "validation"}),
        (right, {"eval_auroc": "combined", "eval_auroc_global": "global", "eval_auroc_local": "local"}),
    )
    for axes, (plot, names) in enumerate(parts):
        for name, label in names.items():
            points = [(entry["step"], entry[name]) for entry in history if name in entry]
            if points:
                plot.plot(*zip(*points, strict=True), label=label, marker="." if name.startswith("eval") else "")
        plot.set_xlabel("step")
        plot.set_title(("contrastive loss", "mean AUROC on validation")[axes])
        plot.grid(alpha=0.3)
        if plot.lines:
            plot.legend()
        elif axes:
            plot.text(0.5, 0.5, "not defined", ha="center", transform=plot.transAxes)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    write_whole(folder / CURVES, picture.getvalue())
