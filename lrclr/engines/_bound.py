"""An ONNX Runtime session with inputs and outputs in memory of the device, which later runs reuse."""

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
_NO_GRAPH: Final = -1  # ONNX Runtime's value for a run without capture
_TYPES: Final = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}


@dataclass(frozen=True)
class _Bound:
    """Memory of the device for one size of inputs, and the number of its CUDA graph."""

    inputs: dict[str, Any]
    outputs: dict[str, Any]
    binding: Any
    graph: int


class BoundSession:
    """Runs a session through I/O binding, one run at a time, since all runs of a size share memory.

    The memory of the 16 latest sizes is kept. With CUDA graphs, each of the first 16 sizes is captured as a graph.

    Args:
        session: session on the device.
        device: ONNX Runtime's name of the device type, such as ``"cuda"``.
        number: number of the device.
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
            EngineError: an input is missing or unknown, or has another number of axes.
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
        # A captured graph needs its memory, so only sizes without a graph are removed.
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
        """Size of each dynamic axis by its name in the graph."""
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
