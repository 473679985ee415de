"""Runs a training to its end, in one process or in several of `torchrun`.

The same command continues a run that was stopped, also with another number of processes.
"""

from __future__ import annotations

import math
import os
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import distributed, nn

from lrclr._files import replace_file
from lrclr.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["BATCH", "RowBatches", "Run", "average", "descend", "falling_rate", "joined", "place", "run_to_end", "share"]

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


@contextmanager
def joined() -> Iterator[None]:
    """Connect to the other processes of `torchrun`, if there are any.

    All processes draw the same batches and make the same steps. Each computes its `share` of a batch and takes the
    `average` of the gradients, so that a step equals that of one process. The first one writes.

    Raises:
        UsageError: the batch cannot be divided among the processes.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if BATCH % processes:
        raise UsageError(f"a batch of {BATCH} cannot be divided among {processes} processes", fix="Start 2, 4 or 8.")
    if processes > 1:
        distributed.init_process_group("gloo")
    try:
        yield
    finally:
        if processes > 1:
            distributed.destroy_process_group()


def place() -> tuple[int, int]:
    """Number of this process, from 0, and number of all processes."""
    return (distributed.get_rank(), distributed.get_world_size()) if distributed.is_initialized() else (0, 1)


def share() -> slice:
    """The rows of a batch that belong to this process."""
    process, processes = place()
    return slice(process * BATCH // processes, (process + 1) * BATCH // processes)


def average(tensors: Iterable[Tensor]) -> None:
    """Replace tensors by their means over all processes."""
    _, processes = place()
    if processes > 1:
        for tensor in tensors:
            distributed.all_reduce(tensor)
            tensor.div_(processes)


def falling_rate(step: int, steps: int, warm_up: int) -> float:
    """Share of the learning rate: a linear warm-up, then a cosine down to a fiftieth."""
    return min(1.0, (step + 1) / warm_up) * (0.49 * (1 + math.cos(math.pi * step / steps)) + 0.02)


def descend(
    parts: Mapping[str, Tensor],
    module: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    schedules: Sequence[torch.optim.lr_scheduler.LRScheduler],
) -> dict[str, float]:
    """Make one step down the sum of the parts of a loss, with the gradients of all processes.

    Returns:
        The means of the parts over all processes.
    """
    for optimizer in optimizers:
        optimizer.zero_grad()
    together = torch.stack(list(parts.values()))
    together.sum().backward()  # type: ignore[no-untyped-call]  # torch declares no types
    means = together.detach()
    average([means, *(each.grad for each in module.parameters() if each.grad is not None)])
    nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    for optimizer, schedule in zip(optimizers, schedules, strict=True):
        optimizer.step()
        schedule.step()
    return dict(zip(parts, means.tolist(), strict=True))


def run_to_end(run: Run, output: Path, settings: Mapping[str, object]) -> None:
    """Make the steps that are left, and print the losses. Of several processes, the first one writes and prints.

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
    writes = place()[0] == 0
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
        if writes:
            sys.stderr.write(f"continues after step {run.step} of {run.steps}\n")
    began, first, losses = time.monotonic(), run.step, []
    while run.step < run.steps:
        losses.append(run.advance())
        if not writes:
            continue
        if run.step % _SAVE_EVERY == 0 or run.step == run.steps:
            means = ", ".join(f"{name} {np.mean([each[name] for each in losses]):.4f}" for name in losses[0])
            rate = (run.step - first) * BATCH / (time.monotonic() - began)
            sys.stderr.write(f"step {run.step} of {run.steps}: {means}, {rate:.0f} images/s\n")
            losses.clear()
            with replace_file(file) as draft:
                torch.save({"settings": dict(settings), "state": run.state()}, draft)
