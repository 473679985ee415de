"""transformers' Trainer for a contrastive task: batches, groups of weights, validation and saved states."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from accelerate.utils import broadcast_object_list
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerState

from lrclr._files import replace_directory
from lrclr._signals import raise_again_if_stopped
from lrclr.checkpoints._checkpoint import _save_weights
from lrclr.errors import LrclrError, NonFiniteError, first_line
from lrclr.training._data import Draws, loader
from lrclr.training._parameters import frozen_parts, parameter_groups

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor
    from torch.utils.data import DataLoader
    from transformers import TrainerControl

    from lrclr.text import ClipTokenizer
    from lrclr.training._data import Items
    from lrclr.training._settings import TrainSettings
    from lrclr.training._task import ContrastiveTask
    from lrclr.training._validation import Validation

WEIGHTS: Final = "model.safetensors"
_STATE: Final = re.compile(r"checkpoint-(\d+)")
_WARMEST: Final = math.log(100.0)  # CLIP's own bound of the temperature
_LOGGED: Final = 500
# torch writes files in C++ and does not pass on the system's error.
_WRITER_FAILED: Final = re.compile(r"inline_container|iostream|PytorchStreamWriter")
# The first process may prepare a large data set for hours, while the others wait.
_TIMEOUT: Final = 6 * 3600


def training_arguments(settings: TrainSettings, folder: Path, steps: int, per_epoch: int) -> TrainingArguments:
    """Arguments of Trainer. Making them connects to the other processes of `torchrun`."""
    on_cpu = not torch.cuda.is_available()
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        learning_rate=settings.learning_rate,
        warmup_steps=math.ceil(settings.warmup * steps),
        lr_scheduler_type="cosine",
        max_grad_norm=settings.max_grad_norm,
        bf16=settings.precision == "bf16",
        fp16=settings.precision == "fp16",
        seed=settings.seed % 2**32,
        logging_steps=max(1, steps // _LOGGED),
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=settings.save_every or per_epoch,
        eval_strategy="no",
        eval_steps=settings.evaluate_every or per_epoch,
        use_cpu=on_cpu,
        ddp_backend="gloo" if on_cpu and int(os.environ.get("WORLD_SIZE", "1")) > 1 else None,
        ddp_timeout=_TIMEOUT,
        ddp_find_unused_parameters=False,
        disable_tqdm=True,
        report_to="none",
        remove_unused_columns=False,
        label_names=[],
    )
    if arguments.n_gpu > 1:
        # DataParallel would split the contrastive batch into independent ones.
        arguments._n_gpu = 1  # noqa: SLF001 - as Trainer itself does
    return arguments


class ContrastiveTrainer(Trainer):  # type: ignore[misc]
    """Tunes a `ContrastiveTask`.

    Args:
        task: the task to tune.
        arguments: arguments from `training_arguments`.
        settings: settings with a resolved ``freeze``.
        items: training items.
        tokenizer: tokenizer of the network.
        validation: validation, or None.
        on_best: called by the first process when the validation AUROC is the highest so far.
    """

    def __init__(
        self,
        task: ContrastiveTask,
        arguments: TrainingArguments,
        settings: TrainSettings,
        *,
        items: Items,
        tokenizer: ClipTokenizer,
        validation: Validation | None,
        on_best: Callable[[], None],
    ) -> None:
        self._settings, self._tokenizer = settings, tokenizer
        self._validation, self._on_best = validation, on_best
        self._frozen = frozen_parts(task.model, settings)
        self._sums: dict[str, Tensor] = {}
        self._summed = 0
        self.optimizer: torch.optim.Optimizer | None
        self.control: TrainerControl
        super().__init__(model=task, args=arguments, train_dataset=items, callbacks=[_Schedule(validation is not None)])
        self.remove_callback(PrinterCallback)
        self.task = task

    def get_train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """The whole run as one epoch of Trainer, so that resuming only skips steps."""
        draws = Draws(
            len(self.train_dataset),
            batch=self._settings.batch_size,
            steps=self.args.max_steps,
            seed=self._settings.seed,
            process=self.args.process_index,
            processes=self.args.world_size,
        )
        return loader(self.train_dataset, draws, self._tokenizer, self._settings.workers)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:  # noqa: ARG002 - Trainer's signature
        """AdamW with CLIP's momenta, once."""
        if self.optimizer is None:
            groups = parameter_groups(self.task.model, self._settings)
            self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-6)
        return self.optimizer

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,  # noqa: ARG002 - Trainer's signature
    ) -> Any:
        """The task's loss; its parts are kept for the log."""
        for part in self._frozen:
            part.eval()
        outputs = model(**inputs)
        loss = outputs["loss"]
        if not bool(torch.isfinite(loss)):
            raise _not_finite("loss", self.state.global_step)
        for name in outputs.keys() - {"loss"}:
            self._sums[name] = self._sums.get(name, 0.0) + outputs[name]
        self._summed += 1
        return (loss, outputs) if return_outputs else loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm)
        # With fp16 the scaler checks this, skips the step, and reduces the scale.
        if self._settings.precision != "fp16" and not math.isfinite(float(norm)):
            raise _not_finite("gradient", self.state.global_step)
        return norm

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:  # noqa: ARG002 - Trainer's
        """Add the parts of the loss, both learning rates and the temperature to what Trainer logs."""
        if "train_runtime" in logs:
            # Trainer's summary is that of this session, not of the run.
            return
        if "loss" in logs and self._summed and self.optimizer is not None:
            logs |= {name: float(value) / self._summed for name, value in self._sums.items()}
            self._sums, self._summed = {}, 0
            logs |= {f"learning_rate_{group['name']}": group["lr"] for group in self.optimizer.param_groups}
            logs.pop("learning_rate", None)
            logs["temperature"] = float(self.task.model.logit_scale.detach().exp())
        step = self.state.global_step
        # An epoch of Trainer is the whole run, see get_train_dataloader.
        epoch = step * self._settings.batch_size / len(self.train_dataset)
        self.state.log_history.append({"step": step, "epoch": round(epoch, 4), **logs})
        self.control = self.callback_handler.on_log(self.args, self.state, self.control, logs)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Evaluate the network on the validation rows, and log the figures with the prefix ``eval_``."""
        if self._validation is None:
            return {}
        found = self._validation.run(
            self.task,
            process=self.args.process_index,
            processes=self.args.world_size,
            autocast=self.accelerator.autocast,
        )
        metrics = {f"eval_{name}": value for name, value in found.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:  # noqa: ARG002 - Trainer's
        auroc = metrics.get("eval_auroc")
        if auroc is None or (self.state.best_metric is not None and auroc <= self.state.best_metric):
            return False
        if self.is_world_process_zero():
            self._on_best()
        self.state.best_metric, self.state.best_global_step = auroc, self.state.global_step
        return True

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        with reading_state(Path(resume_from_checkpoint)):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        with reading_state(Path(checkpoint)):
            for name in (OPTIMIZER_NAME, SCHEDULER_NAME):
                # Otherwise Trainer would go on with a new one.
                Path(checkpoint, name).stat()
            super()._load_optimizer_and_scheduler(checkpoint)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:  # noqa: ARG002 - Trainer's signature
        """Write a resumable state, whole or not at all, and delete old ones."""
        root = Path(self.args.output_dir)
        target = root / f"checkpoint-{self.state.global_step}"
        with contextlib.ExitStack() as stack:
            place: list[Any] = [None]
            if self.is_world_process_zero():
                names = [entry.name for entry in target.iterdir()] if target.is_dir() else []
                place[0] = str(stack.enter_context(replace_directory(target, expected=names, overwrite=True)))
            folder = broadcast_object_list(place)[0]
            with _system_errors():
                if self.is_world_process_zero():
                    _save_weights(self.task.state_dict(), Path(folder, WEIGHTS))
                self._save_optimizer_and_scheduler(folder)
                self._save_scaler(folder)
                self._save_rng_state(folder)
                if self.is_world_process_zero():
                    self.state.save_to_json(str(Path(folder, TRAINER_STATE_NAME)))
            self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            for _, old in _states(root)[: -self._settings.keep]:
                shutil.rmtree(old, ignore_errors=True)
        self.accelerator.wait_for_everyone()


class _Schedule(TrainerCallback):  # type: ignore[misc]
    """Decides when to evaluate and log, and clamps the temperature."""

    def __init__(self, evaluates: bool) -> None:
        self._evaluates = evaluates

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, _control: TrainerControl, **__: Any) -> None:
        # Trainer takes these from the resumed state; they belong to the settings.
        state.logging_steps, state.save_steps = int(args.logging_steps), int(args.save_steps)

    def on_optimizer_step(self, *_: Any, model: ContrastiveTask, **__: Any) -> None:
        with torch.no_grad():
            model.model.logit_scale.clamp_(max=_WARMEST)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        raise_again_if_stopped()
        at_end = state.global_step >= state.max_steps
        control.should_evaluate = self._evaluates and (at_end or state.global_step % int(args.eval_steps) == 0)
        # An entry that spans a save would lose its beginning when the run is resumed there.
        control.should_log = control.should_log or control.should_save or control.should_evaluate


def last_state(folder: Path) -> Path | None:
    """The newest resumable state, or None."""
    states = _states(folder)
    return states[-1][1] if states else None


@contextlib.contextmanager
def reading_state(state: Path) -> Iterator[None]:
    """Raise LrclrError for what the libraries raise if a file of a saved state is damaged or missing."""
    try:
        yield
    except Exception as error:  # each library has its own
        older = [each for _, each in _states(state.parent) if each != state]
        fix = (
            f"Delete it: the run then continues from {older[-1].name}." if older else "Start the run with --overwrite."
        )
        raise LrclrError(f"the saved state {state} is damaged", why=first_line(error), fix=fix) from error


def best_step_of(state: Path) -> int | None:
    """The step with the best network so far, of a saved state.

    Raises:
        LrclrError: the state is damaged.
    """
    with reading_state(state):
        best: int | None = TrainerState.load_from_json(str(state / TRAINER_STATE_NAME)).best_global_step
    return best


def _states(folder: Path) -> list[tuple[int, Path]]:
    matches = ((_STATE.fullmatch(entry.name), entry) for entry in folder.glob("checkpoint-*"))
    return sorted((int(match[1]), entry) for match, entry in matches if match)


@contextlib.contextmanager
def _system_errors() -> Iterator[None]:
    """Raise OSError for torch's RuntimeError on a full disk."""
    try:
        yield
    except RuntimeError as error:
        if not _WRITER_FAILED.search(str(error)):
            raise
        raise OSError(errno.EIO, "the disk is full or broken") from error


def _not_finite(what: str, step: int) -> LrclrError:
    return NonFiniteError(
        f"the {what} of step {step + 1} is not finite",
        why="the learning rates are too high, or the images or weights hold NaN",
        fix="Lower --lr and --tower-lr, or increase --warmup. Saved states are complete.",
    )
