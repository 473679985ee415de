"""Graphs of reduced precision, rewritten to compute in float32 with the weights that they store.

Rounding hides small faults: int8 changes an output by a hundredth, a wrong epsilon by a ten-thousandth. Without
rounding, a graph has to meet the limits of float32.
"""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

_LEAST_BESIDE: Final = 1024  # bytes of a weight that is written beside the graph


def can_rewrite() -> bool:
    """Whether onnx is installed, which rewrites graphs."""
    return find_spec("onnx") is not None


@contextmanager
def float_forms(graphs: Mapping[str, Path]) -> Iterator[dict[str, Path]]:
    """Write the float32 form of ONNX files into a temporary folder.

    Args:
        graphs: file of each graph.

    Yields:
        File of each float32 form. They are deleted at the end of the context.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for name, path in graphs.items():
            files[name] = Path(folder) / f"{name}.onnx"
            _write_float_form(path, files[name])
        yield files


def _write_float_form(source: Path, target: Path) -> None:
    """Rewrite a file. One of its weights is in memory at a time: they are read from a file, and written to another."""
    import onnx

    model = onnx.load(source, load_external_data=False)
    graph = model.graph
    stored = {tensor.name: _Weight(tensor, source.parent) for tensor in graph.initializer}
    computed = _rewrite_nodes(graph, stored)
    used = {name for node in graph.node for name in node.input}
    written = []
    with target.with_suffix(".data").open("wb") as weights:
        for name, weight in stored.items():
            if name in used:
                array = weight.read()
                written.append(
                    _written(name, array.astype(np.float32) if array.dtype == np.float16 else array, weights)
                )
        written += [
            _written(name, _dequantized(node, stored), weights) for name, node in computed.items() if name in used
        ]
    del graph.initializer[:]
    graph.initializer.extend(written)
    # The types of values between nodes have changed.
    del graph.value_info[:]
    onnx.save_model(model, target)


@dataclass(frozen=True)
class _Weight:
    """A weight of a graph.

    Attributes:
        tensor: its message.
        folder: folder of the graph, and of the file with the weight's numbers if they are not in the message.
    """

    tensor: Any
    folder: Path

    def read(self) -> NDArray[Any]:
        """Its numbers. onnx's own reader refuses files with hard links, as copies of a bundle may have."""
        from onnx import TensorProto, numpy_helper
        from onnx.external_data_helper import ExternalDataInfo

        tensor = self.tensor
        if tensor.data_location == TensorProto.EXTERNAL:
            place = ExternalDataInfo(tensor)
            with (self.folder / Path(place.location).name).open("rb") as file:
                file.seek(place.offset or 0)
                numbers = file.read(place.length)
            tensor = TensorProto(dims=tensor.dims, data_type=tensor.data_type, raw_data=numbers)
        array: NDArray[Any] = numpy_helper.to_array(tensor)
        return array


def _rewrite_nodes(graph: Any, stored: Mapping[str, _Weight]) -> dict[str, Any]:
    """Let the nodes of a graph compute in float32.

    Returns:
        For each weight that is to be dequantised, the node that did so. The node is not in the graph any more.
    """
    from onnx import TensorProto

    makers = {output: node for node in graph.node for output in node.output}
    passed_by: dict[str, str] = {}
    computed: dict[str, Any] = {}
    for node in graph.node:
        if node.op_type == "DequantizeLinear":
            maker = makers.get(node.input[0])
            if maker is not None and maker.op_type == "QuantizeLinear":
                passed_by[node.output[0]] = maker.input[0]
            elif node.input[0] in stored:
                # ONNX Runtime would compute products with int8 weights in int8.
                computed[node.output[0]] = node
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.FLOAT
            if attribute.HasField("t") and attribute.t.data_type == TensorProto.FLOAT16:
                attribute.t.CopyFrom(_widened(attribute.t))
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = passed_by.get(name, name)
    kept = [node for node in graph.node if node.op_type not in {"QuantizeLinear", "DequantizeLinear"}]
    del graph.node[:]
    graph.node.extend(kept)
    return computed


def _written(name: str, array: NDArray[Any], weights: BinaryIO) -> Any:
    """A weight whose numbers are in the file `weights`, if they are many."""
    from onnx import TensorProto, helper, numpy_helper

    if array.nbytes < _LEAST_BESIDE:
        return numpy_helper.from_array(array, name)
    tensor = TensorProto(name=name, dims=array.shape, data_type=helper.np_dtype_to_tensor_dtype(array.dtype))
    tensor.data_location = TensorProto.EXTERNAL
    place = {"location": Path(weights.name).name, "offset": weights.tell(), "length": array.nbytes}
    for key, value in place.items():
        tensor.external_data.add(key=key, value=str(value))
    weights.write(np.ascontiguousarray(array).data)
    return tensor


def _dequantized(node: Any, stored: Mapping[str, _Weight]) -> Any:
    weights, scale, zero = (stored[name].read().astype(np.float32) for name in node.input)
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
    shape = [1] * weights.ndim
    if scale.ndim:
        shape[axis] = -1
    return ((weights - zero.reshape(shape)) * scale.reshape(shape)).astype(np.float32)


def _widened(tensor: Any) -> Any:
    from onnx import numpy_helper

    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)
