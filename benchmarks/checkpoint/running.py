"""Runs a training to its end. The same command continues a run that was stopped."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from lrclr._files import replace_file
from lrclr.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["BATCH", "RowBatches", "Run", "run_to_end"]

BATCH = 32
_SAVE_EVERY = 100


class Run(Protocol):
    """A training run.

    Attributes:
        step: number of finished steps.
        steps: number of all steps.
    """

    step: int
    steps: int

    def advance(self) -> Mapping[str, float]:
        """Make one step; returns the parts of the loss by name."""

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on, besides data and settings."""

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a `state`."""


class RowBatches:
    """Sorted numbers of the rows of each batch; all `rows` in random order, again and again."""

    def __init__(self, rows: NDArray[np.int64], seed: int) -> None:
        self.rng, self._rows, self._left = np.random.default_rng(seed), rows, np.empty(0, np.int64)

    def draw(self) -> NDArray[np.int64]:
        """The rows of the next batch."""
        if len(self._left) < BATCH:
            self._left = self.rng.permutation(self._rows)
        batch, self._left = np.sort(self._left[:BATCH]), self._left[BATCH:]
        return batch

    def state(self) -> dict[str, Any]:
        """As `Run.state`."""
        return {"rng": self.rng.bit_generator.state, "left": self._left.tolist()}

    def restore(self, state: dict[str, Any]) -> None:
        """As `Run.restore`."""
        self.rng.bit_generator.state = state["rng"]
        self._left = np.array(state["left"], np.int64)


def run_to_end(run: Run, output: Path, settings: Mapping[str, object]) -> None:
    """Make the steps that are left, and print the losses.

    The state is written every hundred steps to ``.NAME.state`` beside the output, and stays there at the end: the same
    command then makes no step.

    Args:
        run: the run, before its first step.
        output: file or folder that the caller writes afterwards.
        settings: everything that determines the run; a state with other settings is refused.

    Raises:
        UsageError: the state is that of a run with other settings.
    """
    file = output.with_name(f".{output.name}.state")
    if file.exists():
        saved = torch.load(file, weights_only=True)
        before = saved["settings"]
        differing = sorted(name for name in {*settings, *before} if before.get(name) != settings.get(name))
        if differing:
            raise UsageError(
                f"{file} is of a run with other settings",
                why=f"these differ: {', '.join(differing)}",
                fix="Repeat the command that began it, or delete the file to start again.",
            )
        run.restore(saved["state"])
        sys.stderr.write(f"continues after step {run.step} of {run.steps}\n")
    began, first, losses = time.monotonic(), run.step, []
    while run.step < run.steps:
        losses.append(run.advance())
        if run.step % _SAVE_EVERY == 0 or run.step == run.steps:
            means = ", ".join(f"{name} {np.mean([each[name] for each in losses]):.4f}" for name in losses[0])
            rate = (run.step - first) * BATCH / (time.monotonic() - began)
            sys.stderr.write(f"step {run.step} of {run.steps}: {means}, {rate:.0f} images/s\n")
            losses.clear()
            with replace_file(file) as draft:
                torch.save({"settings": dict(settings), "state": run.state()}, draft)
