"""Callbacks of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from lrclr.training._record import draw_curves, write_log

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import TrainerControl, TrainerState, TrainingArguments

    from lrclr.datasets import RowProblem


class TrainListener:
    """Callbacks of a run; override any method. They are called in the first process only."""

    def note(self, text: str) -> None:
        """Information for the user, one sentence without patient data."""

    def problem(self, problem: RowProblem) -> None:
        """A row was left out."""

    def prepared(self, done: int, total: int, rate: float) -> None:
        """Images were decoded; `rate` is images a second."""

    def begun(self, record: dict[str, Any]) -> None:
        """Training begins; `record` is the content of ``settings.json``."""

    def step(self, step: int, steps: int, loss: float | None) -> None:
        """A step is done; `loss` is the last logged one."""

    def evaluated(self, step: int, metrics: dict[str, float]) -> None:
        """The network was evaluated on the validation rows; keys as of `Validation.run`."""


class ListenerCallback(TrainerCallback):  # type: ignore[misc]
    """Updates log and curves, and calls the listener."""

    def __init__(self, folder: Path, listener: TrainListener) -> None:
        self._folder, self._listener = folder, listener
        self._loss: float | None = None

    def on_log(self, _args: TrainingArguments, state: TrainerState, _control: TrainerControl, **kwargs: Any) -> None:
        write_log(self._folder, state.log_history)
        self._loss = kwargs["logs"].get("loss", self._loss)

    def on_step_end(self, _args: TrainingArguments, state: TrainerState, _control: TrainerControl, **__: Any) -> None:
        self._listener.step(state.global_step, state.max_steps, self._loss)

    def on_evaluate(
        self, _args: TrainingArguments, state: TrainerState, _control: TrainerControl, **kwargs: Any
    ) -> None:
        draw_curves(self._folder, state.log_history)
        metrics = {name.removeprefix("eval_"): value for name, value in kwargs["metrics"].items()}
        self._listener.evaluated(state.global_step, metrics)
