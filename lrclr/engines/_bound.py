"""A session of ONNX Runtime whose inputs and outputs stay where the graph computes, from run to run."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from lrclr.engines._onnxruntime_package import onnxruntime_library
from lrclr.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnxruntime
    from numpy.typing import NDArray

    Shapes = dict[str, tuple[int, ...]]

_MOST_SIZES: Final = 16
_NO_GRAPH: Final = -1  # ONNX Runtime's word for a run that is not captured
_TYPES: Final = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}


@dataclass(frozen=True)
class _Bound:
    """Memory on the device for one size of inputs, and the number of the CUDA graph that uses it."""

    inputs: dict[str, Any]
    outputs: dict[str, Any]
    binding: Any
    graph: int


class BoundSession:
    """Runs a session through I/O binding. One run at a time: the memory is shared by all runs of a size.

    Memory of the sizes seen last is kept, at most 16; with CUDA graphs, each size's launches are captured as a graph
    of its own, for the first 16 sizes.

    Args:
        session: on the device.
        device: in ONNX Runtime's words, such as ``"cuda"``.
        number: of the device.
        cuda_graphs: whether the session was made with ``enable_cuda_graph``.
    """

    def __init__(
        self, session: onnxruntime.InferenceSession, device: str, number: int = 0, *, cuda_graphs: bool = False
    ) -> None:
        self._session, self._device, self._number, self._cuda_graphs = session, device, number, cuda_graphs
        self._known: OrderedDict[tuple[Any, ...], _Bound] = OrderedDict()
        self._lock = Lock()

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Every output by name.

        Raises:
            EngineError: an input is missing, unknown, or of another number of axes.
        """
        shapes = {name: array.shape for name, array in inputs.items()}
        with self._lock:
            bound = self._bound(shapes)
            for name, value in bound.inputs.items():
                value.update_inplace(np.ascontiguousarray(inputs[name]))
            options = onnxruntime_library().RunOptions()
            if self._cuda_graphs:
                options.add_run_config_entry("gpu_graph_id", str(bound.graph))
            self._session.run_with_iobinding(bound.binding, options)
            return {name: value.numpy() for name, value in bound.outputs.items()}

    def _bound(self, shapes: Shapes) -> _Bound:
        key = tuple(sorted(shapes.items()))
        if key in self._known:
            self._known.move_to_end(key)
            return self._known[key]
        captured = sum(one.graph != _NO_GRAPH for one in self._known.values())
        room = self._cuda_graphs and captured < _MOST_SIZES
        bound = self._bind(shapes, captured + 1 if room else _NO_GRAPH)
        self._known[key] = bound
        # What was captured must keep its memory: only sizes without a graph are forgotten.
        free = [one for one, other in self._known.items() if other.graph == _NO_GRAPH]
        if len(free) > _MOST_SIZES:
            del self._known[free[0]]
        return bound

    def _bind(self, shapes: Shapes, graph: int) -> _Bound:
        sizes = self._sizes(shapes)
        inputs = {one.name: self._room(one, shapes[one.name]) for one in self._session.get_inputs()}
        outputs = {
            one.name: self._room(one, tuple(sizes[axis] if isinstance(axis, str) else axis for axis in one.shape))
            for one in self._session.get_outputs()
        }
        binding = self._session.io_binding()
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        for name, value in outputs.items():
            binding.bind_ortvalue_output(name, value)
        return _Bound(inputs, outputs, binding, graph)

    def _sizes(self, shapes: Shapes) -> dict[str, int]:
        """How long each dynamic axis is, by its name in the graph."""
        described = {one.name: one.shape for one in self._session.get_inputs()}
        if shapes.keys() != described.keys():
            raise EngineError(
                f"the graph takes {', '.join(sorted(described))}", why=f"it was given {', '.join(sorted(shapes))}"
            )
        sizes: dict[str, int] = {}
        for name, shape in shapes.items():
            if len(shape) != len(described[name]):
                raise EngineError(f"{name} has shape {list(shape)}", why=f"the graph takes {described[name]}")
            sizes |= {axis: size for axis, size in zip(described[name], shape, strict=True) if isinstance(axis, str)}
        return sizes

    def _room(self, tensor: Any, shape: tuple[int, ...]) -> Any:
        return onnxruntime_library().OrtValue.ortvalue_from_shape_and_type(
            list(shape), _TYPES[tensor.type], self._device, self._number
        )
