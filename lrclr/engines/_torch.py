"""PyTorch: a checkpoint answers as a bundle does. Importing this module imports torch."""

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
    """Runs a network's three graphs, as it is in memory, without a trace of gradients.

    The network is moved to `device` and is otherwise as before after every run: it may be one that is being trained.

    Args:
        model: the network.
        device: where to run, in torch's words.

    Raises:
        EngineError: the device is not to be had.
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
        # One run at a time: another thread's must not see the training flags half restored.
        with self._lock, torch.inference_mode(), _evaluating(self._model):
            try:
                tensors = {name: torch.from_numpy(array).to(self._device) for name, array in inputs.items()}
                outputs = self._outputs(graph, tensors)
            except Exception as error:
                raise EngineError(f"torch could not run {graph}", why=first_line(error)) from error
            return {name: tensor.cpu().numpy() for name, tensor in outputs.items()}

    def _outputs(self, graph: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if graph not in GRAPHS:
            raise EngineError(f"there is no graph {graph!r}")
        arguments = [tensors[name] for name in GRAPHS[graph].input_names]
        outputs: tuple[torch.Tensor, ...]
        if graph == "image_encoder":
            embedding, regions = self._model.encode_image(*arguments)
            outputs = (embedding, *regions)
        elif graph == "text_encoder":
            outputs = self._model.encode_text(*arguments)
        else:
            outputs = self._model.fusion_head(*arguments)
        return dict(zip(GRAPHS[graph].output_names, outputs, strict=True))


@contextlib.contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    # Flag by flag: a tower may be frozen in evaluation mode inside a network that is being trained.
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
