"""Stands in for Triton's ``openvino`` backend where that is not to be had: the same configuration, the same graphs.

Placed as ``backends/openvino/model.py`` by one line, it answers to ``backend: "openvino"``. Unlike Triton's own it also
reads an ONNX graph with region selection in it, and takes any number of rows where ``max_batch_size`` is set.
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
    """The keys of a model's configuration that Triton's own backend reads, as far as they mean something here.

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
