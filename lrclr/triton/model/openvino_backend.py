"""Stand-in for Triton's ``openvino`` backend, for servers without it.

A file ``backends/openvino/model.py`` that imports `TritonPythonModel` makes it the backend "openvino". Unlike Triton's
backend, it reads ONNX graphs with region selection, and accepts any number of rows if ``max_batch_size`` is set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from lrclr.engines._openvino import CompiledGraph, OpenVINOSettings
from lrclr.triton.model._graph_backend import GraphBackend, parameters

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["TritonPythonModel"]


class TritonPythonModel(GraphBackend):
    """A graph in OpenVINO, on the CPU."""

    engine: ClassVar[str] = "openvino"
    default_file: ClassVar[str] = "model.xml"

    def open(self, file: Path, config: Mapping[str, Any], args: Mapping[str, str]) -> None:
        if args["model_instance_kind"] == "GPU":
            raise ValueError("the backend openvino runs on the CPU: set the kind of its instances to KIND_CPU")
        self._graph = CompiledGraph(file, _settings(config), name=args["model_name"])

    def answer(self, outputs: Sequence[str], inputs: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        answers = self._graph.run(inputs)
        return [answers[name] for name in outputs]


def _settings(config: Mapping[str, Any]) -> OpenVINOSettings:
    """Settings from the keys of a model's configuration that Triton's backend reads too.

    Raises:
        ValueError: a value is not a number.
    """
    given = parameters(config)
    return OpenVINOSettings(
        half=given.get("HINT_BF16", "").casefold() == "yes",
        threads=int(given.get("INFERENCE_NUM_THREADS", 0)) or None,
        streams=given.get("NUM_STREAMS"),
        hint=given.get("PERFORMANCE_HINT", "LATENCY").upper(),
    )
