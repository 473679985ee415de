"""Faults, put into real graphs: what an exporter, an optimiser or a converter may do wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Callable

    from lrclr_export.onnx_graph import TypedGraph

    Fault = Callable[[onnx.ModelProto], None]

_WEIGHED = {"Conv": 1, "Gemm": 1, "MatMul": 1, "LayerNormalization": 1, "Gather": 0}


def doctored(graph: TypedGraph, *faults: Fault) -> TypedGraph:
    """A copy of `graph` with faults in it."""
    proto = ir.to_proto(graph.model)
    for fault in faults:
        fault(proto)
    onnx.checker.check_model(proto)
    return replace(graph, model=ir.from_proto(proto))


def noisy_weights(value: str, *, amount: float = 0.5) -> Fault:
    """Disturb the weights of the last layer before `value`."""

    def fault(proto: onnx.ModelProto) -> None:
        node, position = _weights_before(proto, value)
        name = node.input[position]
        weights = _array(proto, name)
        noise = np.random.default_rng(0).normal(size=weights.shape) * amount * max(float(weights.std()), 0.5)
        if node.op_type == "LayerNormalization":
            # The exporter shares equal initializers between layers; the fault is to be in one of them.
            proto.graph.initializer.append(numpy_helper.from_array((weights + noise).astype(weights.dtype), "doctored"))
            node.input[position] = "doctored"
        else:
            _set(proto, name, weights + noise)

    return fault


def nan_weights(value: str) -> Fault:
    """A NaN in the weights of the last layer before `value`."""

    def fault(proto: onnx.ModelProto) -> None:
        node, position = _weights_before(proto, value)
        weights = _array(proto, node.input[position]).copy()
        weights.flat[0] = np.nan
        _set(proto, node.input[position], weights)

    return fault


def without_scale(value: str) -> Fault:
    """Let the LayerNorm that makes `value` give its bias whatever comes in."""

    def fault(proto: onnx.ModelProto) -> None:
        node, position = _weights_before(proto, value)
        assert node.op_type == "LayerNormalization"
        scale = np.zeros_like(_array(proto, node.input[position]))
        proto.graph.initializer.append(numpy_helper.from_array(scale, "doctored"))
        node.input[position] = "doctored"

    return fault


def without_causal_mask(proto: onnx.ModelProto) -> None:
    """Let every token of a prompt see every other."""
    (triangle,) = _of_type(proto, "Trilu")
    _set(proto, _producer(proto, triangle.input[0]).input[0], np.float32(0.0))


def another_eot(proto: onnx.ModelProto) -> None:
    """Look for an EOT that is not in any prompt: pooling falls back to the first token."""
    (equal,) = _of_type(proto, "Equal")
    _set(proto, equal.input[1], np.int64(49405))


def gelu_for_quick_gelu(proto: onnx.ModelProto) -> None:
    """Replace ``x * sigmoid(1.702 x)`` by the exact GELU in every MLP."""
    for sigmoid in _of_type(proto, "Sigmoid"):
        (product,) = [node for node in proto.graph.node if sigmoid.output[0] in node.input]
        x = next(name for name in product.input if name != sigmoid.output[0])
        product.CopyFrom(helper.make_node("Gelu", [x], list(product.output)))


def quick_gelu_for_gelu(proto: onnx.ModelProto) -> None:
    """The other way round."""
    proto.graph.initializer.append(numpy_helper.from_array(np.array(1.702, np.float32), "quick"))
    for position in reversed(range(len(proto.graph.node))):
        node = proto.graph.node[position]
        if node.op_type == "Gelu":
            (x,), (out,) = node.input, node.output
            node.CopyFrom(helper.make_node("Mul", [x, f"{out}_sigmoid"], [out]))
            proto.graph.node.insert(position, helper.make_node("Sigmoid", [f"{out}_scaled"], [f"{out}_sigmoid"]))
            proto.graph.node.insert(position, helper.make_node("Mul", [x, "quick"], [f"{out}_scaled"]))


def large_epsilon(proto: onnx.ModelProto) -> None:
    """Normalise with a floor that is no longer small."""
    for node in _of_type(proto, "LayerNormalization"):
        for attribute in node.attribute:
            if attribute.name == "epsilon":
                attribute.f = 0.3


def least_important_regions(proto: onnx.ModelProto) -> None:
    """Pick from the wrong end."""
    (top,) = [node for node in proto.functions[0].node if node.op_type == "TopK"]
    for attribute in top.attribute:
        if attribute.name == "largest":
            attribute.i = 0


def times(output: str, factor: float) -> Fault:
    """Multiply an output."""
    return _then(output, "Mul", np.array(factor, np.float32))


def plus(output: str, amount: float) -> Fault:
    """Add to an output."""
    return _then(output, "Add", np.array(amount, np.float32))


def by_size(output: str, axis: int, usual: int, amount: float) -> Fault:
    """Let an output depend on how long an axis of the input is: right at `usual`, wrong by about `amount` elsewhere."""

    def fault(proto: onnx.ModelProto) -> None:
        whole = next(v for v in proto.graph.output if v.name == output).type.tensor_type.elem_type
        kind = np.int64 if whole == onnx.TensorProto.INT64 else np.float32
        constants = {
            "usual": np.array([usual], kind),
            "amount": np.array([amount], kind),
            "span": np.array([usual - 1], kind),
        }
        for name, array in constants.items():
            proto.graph.initializer.append(numpy_helper.from_array(array, f"doctor_{name}"))
        proto.graph.node.extend(
            [
                helper.make_node("Shape", [proto.graph.input[0].name], ["doctor_size"], start=axis, end=axis + 1),
                helper.make_node("Cast", ["doctor_size"], ["doctor_as"], to=whole),
                helper.make_node("Sub", ["doctor_usual", "doctor_as"], ["doctor_less"]),
                helper.make_node("Mul", ["doctor_less", "doctor_amount"], ["doctor_more"]),
                helper.make_node("Div", ["doctor_more", "doctor_span"], ["doctor_operand"]),
            ]
        )
        _append(proto, output, "Add", "doctor_operand")

    return fault


def blend_of_batch(output: str, share: float) -> Fault:
    """Mix the mean over the batch into an output."""

    def fault(proto: onnx.ModelProto) -> None:
        original = _renamed(proto, output)
        proto.graph.initializer.append(numpy_helper.from_array(np.array([0], np.int64), "doctor_axis"))
        proto.graph.initializer.append(numpy_helper.from_array(np.array(share, np.float32), "doctor_share"))
        proto.graph.initializer.append(numpy_helper.from_array(np.array(1 - share, np.float32), "doctor_rest"))
        proto.graph.node.extend(
            [
                helper.make_node("ReduceMean", [original, "doctor_axis"], ["doctor_mean"]),
                helper.make_node("Mul", ["doctor_mean", "doctor_share"], ["doctor_mixed"]),
                helper.make_node("Mul", [original, "doctor_rest"], ["doctor_own"]),
                helper.make_node("Add", ["doctor_mixed", "doctor_own"], [output]),
            ]
        )

    return fault


def _then(output: str, op_type: str, operand: Any) -> Fault:
    def fault(proto: onnx.ModelProto) -> None:
        proto.graph.initializer.append(numpy_helper.from_array(operand, "doctor_operand"))
        _append(proto, output, op_type, "doctor_operand")

    return fault


def _append(proto: onnx.ModelProto, output: str, op_type: str, operand: str) -> None:
    original = _renamed(proto, output)
    proto.graph.node.append(helper.make_node(op_type, [original, operand], [output]))


def _renamed(proto: onnx.ModelProto, output: str) -> str:
    name = f"{output}_before"
    for node in proto.graph.node:
        for names in (node.input, node.output):
            for position, each in enumerate(names):
                if each == output:
                    names[position] = name
    return name


def _of_type(proto: onnx.ModelProto, op_type: str) -> list[Any]:
    return [node for node in proto.graph.node if node.op_type == op_type]


def _producer(proto: onnx.ModelProto, value: str) -> Any:
    return next(node for node in proto.graph.node if value in node.output)


def _weights_before(proto: onnx.ModelProto, value: str) -> tuple[Any, int]:
    """The last node with weights of its own that `value` depends on, and which of its inputs they are."""
    stored = {tensor.name for tensor in proto.graph.initializer}
    needed = {value}
    for node in reversed(proto.graph.node):
        if needed.isdisjoint(node.output):
            continue
        needed.update(node.input)
        position = _WEIGHED.get(node.op_type)
        if position is None:
            continue
        if node.input[position] in stored:
            return node, position
        transposed = [each for each in _of_type(proto, "Transpose") if node.input[position] in each.output]
        if transposed and transposed[0].input[0] in stored:
            return transposed[0], 0
    raise AssertionError(f"nothing before {value} has weights")


def _array(proto: onnx.ModelProto, name: str) -> Any:
    return numpy_helper.to_array(next(tensor for tensor in proto.graph.initializer if tensor.name == name))


def _set(proto: onnx.ModelProto, name: str, array: Any) -> None:
    tensor = next(tensor for tensor in proto.graph.initializer if tensor.name == name)
    dtype = numpy_helper.to_array(tensor).dtype
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(array, dtype), name))
