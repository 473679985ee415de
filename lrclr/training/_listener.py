"""What a run tells while it goes, and to whom."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from lrclr.training._record import draw_curves, write_log

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import TrainerControl, TrainerState, TrainingArguments

    from lrclr.datasets import RowProblem

__all__ = ["Teller", "TrainListener"]


class TrainListener:
    """Told what a run does; each method may be overridden. Only the first process has one that is told anything."""

    def note(self, text: str) -> None:
        """Something the user should know, in a sentence without patient data."""

    def problem(self, problem: RowProblem) -> None:
        """A row was left out."""

    def prepared(self, done: int, total: int, rate: float) -> None:
        """Images were decoded, so many a second."""

    def begun(self, record: dict[str, Any]) -> None:
        """Training begins; `record` is what ``settings.json`` holds."""

    def step(self, step: int, steps: int, loss: float | None) -> None:
        """A step is done; `loss` is the last that was logged."""

    def evaluated(self, step: int, metrics: dict[str, float]) -> None:
        """The network was judged on the validation rows; keys as of `Validation.run`."""


class Teller(TrainerCallback):  # type: ignore[misc]
    """Keeps log and curves up to date, and tells the listener."""

    def __init__(self, folder: Path, told: TrainListener) -> None:
        self._folder, self._told = folder, told
        self._loss: float | None = None

    def on_log(self, _args: TrainingArguments, state: TrainerState, _control: TrainerControl, **kwargs: Any) -> None:
        write_log(self._folder, state.log_history)
        self._loss = kwargs["logs"].get("loss", self._loss)

    def on_step_end(self, _args: TrainingArguments, state: TrainerState, _control: TrainerControl, **__: Any) -> None:
        self._told.step(state.global_step, state.max_steps, self._loss)

    def on_evaluate(
        self, _args: TrainingArguments, state: TrainerState, _control: TrainerControl, **kwargs: Any
    ) -> None:
        draw_curves(self._folder, state.log_history)
        metrics = {name.removeprefix("eval_"): value for name, value in kwargs["metrics"].items()}
        self._told.evaluated(state.global_step, metrics)
