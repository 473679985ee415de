"""Reads and changes ONNX graphs, for the faults."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper

if TYPE_CHECKING:
    from pathlib import Path

    from lrclr_export.onnx.onnx_graph import TypedGraph

Fault = Callable[[onnx.ModelProto], None]
"""Changes a graph in place."""


def with_faults(graph: TypedGraph, *faults: Fault) -> TypedGraph:
    """A copy of `graph` with faults in it."""
    proto = ir.to_proto(graph.model)
    for fault in faults:
        fault(proto)
    onnx.checker.check_model(proto)
    return replace(graph, model=ir.from_proto(proto))


def spoil(path: Path, *faults: Fault) -> None:
    """Put faults into an ONNX file."""
    proto = onnx.load(path)
    for fault in faults:
        fault(proto)
    del proto.graph.value_info[:]
    onnx.checker.check_model(proto)
    onnx.save_model(proto, path)


def nodes_of(proto: onnx.ModelProto, op_type: str) -> list[Any]:
    """The nodes of one type, in the order of the graph."""
    return [node for node in proto.graph.node if node.op_type == op_type]


def producer(proto: onnx.ModelProto, value: str) -> Any:
    """The node that computes `value`."""
    return next(node for node in proto.graph.node if value in node.output)


def is_stored(proto: onnx.ModelProto, name: str) -> bool:
    """Whether `name` is a tensor of the file."""
    return any(tensor.name == name for tensor in proto.graph.initializer)


def values_of(proto: onnx.ModelProto, name: str) -> Any:
    """The tensor of that name, as an array."""
    return numpy_helper.to_array(next(tensor for tensor in proto.graph.initializer if tensor.name == name))


def store(proto: onnx.ModelProto, name: str, array: Any) -> None:
    """Replace the values of a tensor; its type stays."""
    tensor = next(tensor for tensor in proto.graph.initializer if tensor.name == name)
    dtype = numpy_helper.to_array(tensor).dtype
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(array, dtype), name))


def add_constants(proto: onnx.ModelProto, **arrays: Any) -> None:
    """Add tensors, each named ``fault_`` and its key."""
    for name, array in arrays.items():
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(array), f"fault_{name}"))


def add_node(proto: onnx.ModelProto, op_type: str, inputs: list[str], output: str, **attributes: Any) -> None:
    """Append a node."""
    proto.graph.node.append(helper.make_node(op_type, inputs, [output], **attributes))


def set_attribute(node: Any, name: str, value: float) -> None:
    """Set an attribute that the node has, an integer or a float."""
    for attribute in node.attribute:
        if attribute.name == name:
            setattr(attribute, "i" if isinstance(value, int) else "f", value)


def rename_output(proto: onnx.ModelProto, output: str) -> str:
    """Give the value behind an output another name, so that another node can compute the output from it."""
    name = f"{output}_before"
    for node in proto.graph.node:
        for names in (node.input, node.output):
            for position, each in enumerate(names):
                if each == output:
                    names[position] = name
    return name


def element_type(proto: onnx.ModelProto, output: str) -> int:
    """The element type of an output, as in `onnx.TensorProto`."""
    return int(next(value for value in proto.graph.output if value.name == output).type.tensor_type.elem_type)
