"""Stand-in for Triton's ``onnxruntime`` backend, for servers without it.

A file ``backends/onnxruntime/model.py`` that imports `TritonPythonModel` makes it the backend "onnxruntime".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from lrclr.engines._onnxruntime import SessionSettings, open_session
from lrclr.triton.model._graph_backend import GraphBackend, parameters

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["TritonPythonModel"]


class TritonPythonModel(GraphBackend):
    """A graph in ONNX Runtime, on the CPU or on CUDA by the kind of the instance."""

    engine: ClassVar[str] = "onnxruntime"
    default_file: ClassVar[str] = "model.onnx"

    def open(self, file: Path, config: Mapping[str, Any], args: Mapping[str, str]) -> None:
        provider = "cuda" if args["model_instance_kind"] == "GPU" else "cpu"
        self._session = open_session(file, _settings(config, provider), name=args["model_name"])

    def answer(self, outputs: Sequence[str], inputs: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        answers: list[NDArray[Any]] = self._session.run(outputs, inputs)
        return answers


def _settings(config: Mapping[str, Any], provider: str) -> SessionSettings:
    """Settings from the keys of a model's configuration that Triton's backend reads too.

    Raises:
        ValueError: a value is not a number.
    """
    given = parameters(config)
    optimization = config.get("optimization", {})
    level = optimization.get("graph", {}).get("level")
    return SessionSettings(
        provider,
        _cuda_options(optimization) if provider == "cuda" else {},
        intra_op_threads=int(given.get("intra_op_thread_count", 0)) or None,
        inter_op_threads=int(given.get("inter_op_thread_count", 0)) or None,
        execution_mode=int(given.get("execution_mode", 0)),
        graph_level=None if level is None else int(level),
    )


def _cuda_options(optimization: Mapping[str, Any]) -> dict[str, str]:
    """Options of the CUDA provider.

    Raises:
        ValueError: the configuration names another accelerator.
    """
    accelerators = optimization.get("execution_accelerators", {}).get("gpu_execution_accelerator", [])
    options: dict[str, str] = {}
    for accelerator in accelerators:
        if accelerator["name"] != "cuda":
            raise ValueError(f"unknown execution accelerator {accelerator['name']!r}")
        options |= accelerator.get("parameters", {})
    return options
