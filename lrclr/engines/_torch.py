"""Engine PyTorch, for checkpoints. Importing this module imports torch."""

from __future__ import annotations

import contextlib
from threading import Lock
from typing import TYPE_CHECKING, Any

import torch

from lrclr.contract import GRAPHS
from lrclr.errors import EngineError, first_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from lrclr.model import LrclrModel


class TorchEngine:
    """Runs the three graphs of a network in memory, without gradients.

    The network is moved to `device`. Otherwise a run does not change it, so that it can be in training.

    Args:
        model: the network.
        device: torch's name of the device.

    Raises:
        EngineError: torch cannot use the device.
    """

    def __init__(self, model: LrclrModel, device: str | torch.device = "cpu") -> None:
        try:
            self._device = torch.device(device)
            self._model = model.to(self._device)
        except (RuntimeError, AssertionError) as error:
            raise EngineError(f"torch cannot use the device {device}", why=first_line(error)) from error
        self._lock = Lock()

    @property
    def name(self) -> str:
        return f"torch {torch.__version__} {self._device}"

    def run(self, graph: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        if graph not in GRAPHS:
            raise EngineError(f"unknown graph {graph!r}")
        # One run at a time, since a run sets and restores the training flags of the modules.
        with self._lock, torch.inference_mode(), _evaluating(self._model):
            try:
                tensors = {name: torch.from_numpy(array).to(self._device) for name, array in inputs.items()}
                outputs = self._model.run_graph(graph, tensors)
            except Exception as error:
                raise EngineError(f"torch could not run {graph}", why=first_line(error)) from error
            return {name: tensor.cpu().numpy() for name, tensor in outputs.items()}


@contextlib.contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    # For each module, since a tower may be frozen in evaluation mode while the network is in training.
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
