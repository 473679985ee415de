"""Base class of the stand-ins for Triton's backends: they run the same graphs by the same configuration, in Python."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import triton_python_backend_utils as pb_utils

from lrclr.errors import EngineError, MissingExtraError, first_line
from lrclr.triton.model._tensors import get, put, refuse

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Arrays = dict[str, NDArray[Any]]

_TYPES = {
    "TYPE_BOOL": np.bool_,
    "TYPE_UINT8": np.uint8,
    "TYPE_INT8": np.int8,
    "TYPE_INT16": np.int16,
    "TYPE_INT32": np.int32,
    "TYPE_INT64": np.int64,
    "TYPE_FP16": np.float16,
    "TYPE_FP32": np.float32,
    "TYPE_FP64": np.float64,
}


class GraphBackend(ABC):
    """One instance of one model. Triton calls `initialize` and `execute`, one at a time.

    Attributes:
        engine: name of the engine in errors.
        default_file: name of a model's file if the configuration does not give one.
    """

    engine: ClassVar[str]
    default_file: ClassVar[str]

    @abstractmethod
    def open(self, file: Path, config: Mapping[str, Any], args: Mapping[str, str]) -> None:
        """Load the graph.

        Args:
            file: file of the graph.
            config: configuration of the model.
            args: Triton's arguments of this instance.

        Raises:
            EngineError, MissingExtraError: the engine or the graph cannot be used.
            ValueError: the configuration has an unknown value.
        """

    @abstractmethod
    def answer(self, outputs: Sequence[str], inputs: Arrays) -> list[NDArray[Any]]:
        """Run the graph. The text of an exception is sent to the client."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Open the graph by the configuration of the model.

        Raises:
            TritonModelException: the graph cannot be opened.
        """
        config = json.loads(args["model_config"])
        folder = Path(args["model_repository"]) / args["model_version"]
        file = folder / (config.get("default_model_filename") or self.default_file)
        try:
            self.open(file, config, args)
        except (EngineError, MissingExtraError, ValueError) as error:
            raise pb_utils.TritonModelException(str(error)) from error
        self._batched = int(config.get("max_batch_size", 0)) > 0
        self._inputs = {
            one["name"]: (_TYPES[one["data_type"]], tuple(int(dim) for dim in one["dims"])) for one in config["input"]
        }
        self._outputs = [one["name"] for one in config["output"]]

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer requests. Those with equal shapes run together. If one fails, the others are still answered."""
        responses: list[Any] = [None] * len(requests)
        groups: dict[tuple[Any, ...], list[tuple[int, Arrays]]] = {}
        for place, request in enumerate(requests):
            try:
                inputs = self._read(request)
            except ValueError as error:
                responses[place] = refuse(str(error))
                continue
            # Rows of different lengths are not padded: the padding would be part of the answer.
            alike = tuple(array.shape[1:] for array in inputs.values()) if self._batched else (place,)
            groups.setdefault(alike, []).append((place, inputs))
        for group in groups.values():
            self._answer(group, responses)
        return responses

    def _read(self, request: Any) -> Arrays:
        inputs: Arrays = {}
        for tensor in request.inputs():
            if tensor.name() not in self._inputs:
                raise ValueError(f"unknown input {tensor.name()}")
            inputs[tensor.name()] = get(tensor)
        for name, (dtype, dims) in self._inputs.items():
            if name not in inputs:
                raise ValueError(f"the input {name} is missing")
            array = inputs[name]
            shape = array.shape[1:] if self._batched else array.shape
            if array.dtype != dtype:
                raise ValueError(f"the input {name} has type {array.dtype}, not {np.dtype(dtype)}")
            if len(shape) != len(dims) or any(want not in {-1, have} for want, have in zip(dims, shape, strict=True)):
                raise ValueError(f"the input {name} has shape {list(array.shape)}")
            if 0 in array.shape:
                raise ValueError(f"the input {name} is empty")
        if self._batched and len({len(array) for array in inputs.values()}) != 1:
            raise ValueError("the inputs have different numbers of rows")
        return inputs

    def _answer(self, group: list[tuple[int, Arrays]], responses: list[Any]) -> None:
        together = {
            name: group[0][1][name] if len(group) == 1 else np.concatenate([inputs[name] for _, inputs in group])
            for name in self._inputs
        }
        try:
            outputs = self.answer(self._outputs, together)
        except Exception as error:  # noqa: BLE001 - no exception of an engine may end the process
            if len(group) > 1:
                for one in group:
                    self._answer([one], responses)
            else:
                responses[group[0][0]] = refuse(f"{self.engine}: {first_line(error)}")
            return
        start = 0
        for place, inputs in group:
            stop = start + len(inputs[next(iter(self._inputs))]) if self._batched else None
            tensors = [put(name, array[start:stop]) for name, array in zip(self._outputs, outputs, strict=True)]
            responses[place] = pb_utils.InferenceResponse(tensors)
            start = stop or 0


def parameters(config: Mapping[str, Any]) -> dict[str, str]:
    """The entries of ``parameters`` in a model's configuration."""
    return {name: entry["string_value"] for name, entry in config.get("parameters", {}).items()}
