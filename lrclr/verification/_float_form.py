"""Graphs of reduced precision, rewritten to compute in float32 with the weights that they store.

Rounding hides small faults: int8 changes an output by a hundredth, a wrong epsilon by a ten-thousandth. Without
rounding, a graph has to meet the limits of float32.
"""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["can_rewrite", "float_forms"]


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
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for name, path in graphs.items():
            files[name] = Path(folder) / f"{name}.onnx"
            model = onnx.load(path)
            _rewrite(model)
            # Weights go into a file beside the graph: a protobuf file cannot be larger than 2 GiB.
            onnx.save_model(model, files[name], save_as_external_data=True, location=f"{name}.data")
        yield files


def _rewrite(model: Any) -> None:
    from onnx import TensorProto, numpy_helper

    graph = model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    makers = {output: node for node in graph.node for output in node.output}
    passed_by: dict[str, str] = {}
    for node in graph.node:
        if node.op_type == "DequantizeLinear":
            source = makers.get(node.input[0])
            if source is not None and source.op_type == "QuantizeLinear":
                passed_by[node.output[0]] = source.input[0]
            elif node.input[0] in stored:
                # ONNX Runtime would compute products with int8 weights in int8.
                weights = _dequantized(node, stored)
                graph.initializer.append(numpy_helper.from_array(weights, node.output[0]))
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.FLOAT
            if attribute.HasField("t") and attribute.t.data_type == TensorProto.FLOAT16:
                attribute.t.CopyFrom(_widened(attribute.t))
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            tensor.CopyFrom(_widened(tensor))
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = passed_by.get(name, name)
    kept = [node for node in graph.node if node.op_type not in {"QuantizeLinear", "DequantizeLinear"}]
    del graph.node[:]
    graph.node.extend(kept)
    used = {name for node in kept for name in node.input}
    weights_left = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(weights_left)
    # The types of values between nodes have changed.
    del graph.value_info[:]


def _dequantized(node: Any, stored: Mapping[str, Any]) -> Any:
    from onnx import numpy_helper

    weights, scale, zero = (numpy_helper.to_array(stored[name]).astype(np.float32) for name in node.input)
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
    shape = [1] * weights.ndim
    if scale.ndim:
        shape[axis] = -1
    return ((weights - zero.reshape(shape)) * scale.reshape(shape)).astype(np.float32)


def _widened(tensor: Any) -> Any:
    from onnx import numpy_helper

    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)
