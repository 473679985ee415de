"""Faults inside a network, as exporters, optimisers and converters make them: weights, layers, masks and regions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from benchmarks.gates.graph_edit import add_constants, is_stored, nodes_of, producer, set_attribute, store, values_of

if TYPE_CHECKING:
    from benchmarks.gates.graph_edit import Fault

_WEIGHTS_AT = {"Conv": 1, "Gemm": 1, "MatMul": 1, "LayerNormalization": 1, "Gather": 0}
"""Which input of a node is its weights."""


def noisy_weights(value: str, *, amount: float = 0.5) -> Fault:
    """Disturb the weights of the last layer before `value`."""

    def fault(proto: onnx.ModelProto) -> None:
        node, position = _weights_before(proto, value)
        name = node.input[position]
        weights = values_of(proto, name)
        noise = np.random.default_rng(0).normal(size=weights.shape) * amount * max(float(weights.std()), 0.5)
        maker = producer(proto, value)
        if maker.op_type == "Split":
            # The export merges products of the same input. The fault belongs into the columns of one of them.
            columns = noise if node.op_type != "Transpose" else noise.T
            widths, part = values_of(proto, maker.input[1]), list(maker.output).index(value)
            begin, end = widths[:part].sum(), widths[: part + 1].sum()
            columns[:, :begin] = columns[:, end:] = 0
        if node.op_type == "LayerNormalization":
            # Layers share equal tensors in an exported graph. The fault belongs into one of them.
            _use_constant(proto, node, position, (weights + noise).astype(weights.dtype))
        else:
            store(proto, name, weights + noise)

    return fault


def nan_weights(value: str) -> Fault:
    """A NaN in the weights of the last layer before `value`."""

    def fault(proto: onnx.ModelProto) -> None:
        node, position = _weights_before(proto, value)
        weights = values_of(proto, node.input[position]).copy()
        weights.flat[0] = np.nan
        store(proto, node.input[position], weights)

    return fault


def without_scale(value: str) -> Fault:
    """Set the scale of the LayerNorm that makes `value` to zero, so that it returns its bias for any input."""

    def fault(proto: onnx.ModelProto) -> None:
        node, position = _weights_before(proto, value)
        assert node.op_type == "LayerNormalization"
        _use_constant(proto, node, position, np.zeros_like(values_of(proto, node.input[position])))

    return fault


def weight_off(amount: float = 0.5) -> Fault:
    """Add to one element of the second largest matrix of all products, in the units of the network."""

    def fault(proto: onnx.ModelProto) -> None:
        tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
        makers = {output: node for node in proto.graph.node for output in node.output}
        found = []
        for node in (*nodes_of(proto, "MatMul"), *nodes_of(proto, "Gemm")):
            name, step = node.input[1], 1.0
            maker = makers.get(name)
            if maker is not None and maker.op_type == "DequantizeLinear":
                steps = np.ravel(values_of(proto, maker.input[1]))
                name, step = maker.input[0], float(steps[min(5, len(steps) - 1)])
            if name in tensors and len(tensors[name].dims) == 2:
                found.append((int(np.prod(tensors[name].dims)), name, step))
        _, name, step = sorted(found)[-2]
        weights = values_of(proto, name).copy()
        if weights.dtype == np.int8:
            weights[3, 5] = np.clip(int(weights[3, 5]) + round(amount / step), -128, 127)
        else:
            # A conversion to FP8 does not clip.
            largest = 448.0 if weights.dtype.name == "float8_e4m3fn" else np.inf
            weights[3, 5] = np.clip(float(weights[3, 5]) + amount / step, -largest, largest)
        store(proto, name, weights)

    return fault


def exchanged(op_type: str, inputs: tuple[int, ...], first: int, second: int) -> Fault:
    """Exchange the weights of two nodes of one type."""

    def fault(proto: onnx.ModelProto) -> None:
        nodes = [node for node in nodes_of(proto, op_type) if is_stored(proto, node.input[inputs[0]])]
        for place in inputs:
            _exchange(nodes[first], nodes[second], place)

    return fault


def exchanged_products(first: int, second: int) -> Fault:
    """Exchange the weights of two products; in a quantised graph the stored weights and their scales."""

    def fault(proto: onnx.ModelProto) -> None:
        dequantized = [node for node in nodes_of(proto, "DequantizeLinear") if is_stored(proto, node.input[0])]
        products = [node for node in nodes_of(proto, "MatMul") if is_stored(proto, node.input[1])]
        nodes, inputs = (dequantized, (0, 1)) if dequantized else (products, (1,))
        for place in inputs:
            _exchange(nodes[first], nodes[second], place)

    return fault


def shifted_rows(rows: int, *, by: int = 1) -> Fault:
    """Shift the rows of the table of positions, which has `rows` rows."""

    def fault(proto: onnx.ModelProto) -> None:
        for tensor in proto.graph.initializer:
            shape = [size for size in tensor.dims if size != 1]
            if len(shape) == 2 and shape[0] == rows and not _multiplied(proto, tensor.name):
                array = values_of(proto, tensor.name)
                store(proto, tensor.name, np.roll(array, by, axis=list(tensor.dims).index(rows)))
                return
        raise AssertionError(f"no table has {rows} rows")

    return fault


def without_bias(proto: onnx.ModelProto) -> None:
    """Set the largest bias that is added to a product to zero."""
    names = {name for node in nodes_of(proto, "Add") for name in node.input if is_stored(proto, name)}
    biases = {name: values_of(proto, name) for name in names}
    largest = max(biases, key=lambda name: (biases[name].ndim == 1, np.abs(biases[name]).sum(), name))
    store(proto, largest, np.zeros_like(biases[largest]))


def without_layer(place: int) -> Fault:
    """Leave out the branch beside a residual connection."""

    def fault(proto: onnx.ModelProto) -> None:
        made = {output: number for number, node in enumerate(proto.graph.node) for output in node.output}
        normed = {
            name
            for node in nodes_of(proto, "LayerNormalization")
            for name in _with_sources_of_casts(proto, node.input[0])
        }
        sums = [
            node
            for node in nodes_of(proto, "Add")
            if all(name in made for name in node.input) and not normed.isdisjoint(node.output)
        ]
        node = sums[place]
        kept = min(node.input, key=lambda name: made[name])
        node.CopyFrom(helper.make_node("Identity", [kept], list(node.output)))

    return fault


def epsilon(value: float) -> Fault:
    """LayerNorms with another epsilon. CLIP's is 1e-5; other networks have 1e-12 or 1e-3."""

    def fault(proto: onnx.ModelProto) -> None:
        for node in nodes_of(proto, "LayerNormalization"):
            set_attribute(node, "epsilon", value)

    return fault


def softmax_over_queries(proto: onnx.ModelProto) -> None:
    """Normalise attention over the wrong axis."""
    for node in nodes_of(proto, "Softmax"):
        set_attribute(node, "axis", -2)


def without_attention_scale(proto: onnx.ModelProto) -> None:
    """Leave the factors on the attention's query and on its product with the key out."""
    before = [nodes_of(proto, "Softmax")[0].input[0]]
    past_product = False
    while before:
        node = producer(proto, before.pop(0))
        if node is None:
            continue
        scalars = [name for name in node.input if is_stored(proto, name) and values_of(proto, name).size == 1]
        if node.op_type == "Mul" and scalars:
            store(proto, scalars[0], np.ones(()))
        past_product = past_product or node.op_type == "MatMul"
        if not past_product or node.op_type == "MatMul":
            before += [name for name in node.input if not is_stored(proto, name)]


def gelu_for_quick_gelu(proto: onnx.ModelProto) -> None:
    """Replace ``x * sigmoid(1.702 x)`` by the exact GELU in every MLP."""
    for sigmoid in nodes_of(proto, "Sigmoid"):
        (product,) = [node for node in proto.graph.node if sigmoid.output[0] in node.input]
        x = next(name for name in product.input if name != sigmoid.output[0])
        product.CopyFrom(helper.make_node("Gelu", [x], list(product.output)))


def quick_gelu_for_gelu(proto: onnx.ModelProto) -> None:
    """Replace the exact GELU by ``x * sigmoid(1.702 x)`` in every MLP."""
    half = any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in proto.graph.initializer)
    add_constants(proto, quick=np.array(1.702, np.float16 if half else np.float32))
    for position in reversed(range(len(proto.graph.node))):
        node = proto.graph.node[position]
        if node.op_type == "Gelu":
            (x,), (out,) = node.input, node.output
            node.CopyFrom(helper.make_node("Mul", [x, f"{out}_sigmoid"], [out]))
            proto.graph.node.insert(position, helper.make_node("Sigmoid", [f"{out}_scaled"], [f"{out}_sigmoid"]))
            proto.graph.node.insert(position, helper.make_node("Mul", [x, "fault_quick"], [f"{out}_scaled"]))


def without_causal_mask(proto: onnx.ModelProto) -> None:
    """Let every token of a prompt attend to all others."""
    (triangle,) = nodes_of(proto, "Trilu")
    store(proto, producer(proto, triangle.input[0]).input[0], np.float32(0.0))


def without_padding_mask(proto: onnx.ModelProto) -> None:
    """Treat padding as words."""
    for node in proto.graph.node:
        for place, name in enumerate(node.input):
            if name == "text_mask":
                node.input[place] = "fault_ones"
    ones = numpy_helper.from_array(np.array([1], np.int64))
    proto.graph.node.insert(0, helper.make_node("ConstantOfShape", ["fault_shape"], ["fault_ones"], value=ones))
    proto.graph.node.insert(0, helper.make_node("Shape", ["text_mask"], ["fault_shape"]))


def another_eot(proto: onnx.ModelProto) -> None:
    """Look for an EOT token that no prompt has, so that the first token is pooled."""
    (equal,) = nodes_of(proto, "Equal")
    store(proto, equal.input[1], np.int64(49405))


def eot_one_too_early(proto: onnx.ModelProto) -> None:
    """Pool the token before EOT."""
    (node,) = nodes_of(proto, "ArgMax")
    place = list(proto.graph.node).index(node)
    output = node.output[0]
    node.output[0] = "fault_position"
    add_constants(proto, one=np.array(1, np.int64))
    proto.graph.node.insert(place + 1, helper.make_node("Sub", ["fault_position", "fault_one"], [output]))


def last_layer_only(proto: onnx.ModelProto) -> None:
    """Select regions by the last layer's attention instead of the rollout over all layers."""
    for node in proto.functions[0].node:
        if node.op_type == "MatMul":
            node.CopyFrom(helper.make_node("Identity", [node.input[0]], list(node.output)))


def least_important_regions(proto: onnx.ModelProto) -> None:
    """Select the regions of least importance."""
    (top,) = [node for node in proto.functions[0].node if node.op_type == "TopK"]
    set_attribute(top, "largest", 0)


def _use_constant(proto: onnx.ModelProto, node: Any, position: int, array: Any) -> None:
    add_constants(proto, weights=array)
    node.input[position] = "fault_weights"


def _exchange(one: Any, other: Any, place: int) -> None:
    one.input[place], other.input[place] = other.input[place], one.input[place]


def _with_sources_of_casts(proto: onnx.ModelProto, value: str) -> list[str]:
    """A value, and the values that it was converted from."""
    found = [value]
    while makers := [node for node in nodes_of(proto, "Cast") if found[-1] in node.output]:
        found.append(makers[0].input[0])
    return found


def _multiplied(proto: onnx.ModelProto, name: str) -> bool:
    products = ("MatMul", "Gemm", "DequantizeLinear")
    return any(name in node.input for op_type in products for node in nodes_of(proto, op_type))


def _weights_before(proto: onnx.ModelProto, value: str) -> tuple[Any, int]:
    """The last node with weights that `value` depends on, and which of its inputs they are."""
    needed = {value}
    for node in reversed(proto.graph.node):
        if needed.isdisjoint(node.output):
            continue
        needed.update(node.input)
        position = _WEIGHTS_AT.get(node.op_type)
        if position is None:
            continue
        if is_stored(proto, node.input[position]):
            return node, position
        transposed = [each for each in nodes_of(proto, "Transpose") if node.input[position] in each.output]
        if transposed and is_stored(proto, transposed[0].input[0]):
            return transposed[0], 0
    raise AssertionError(f"nothing before {value} has weights")
