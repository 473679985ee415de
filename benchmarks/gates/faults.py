"""Faults of exporters, optimisers and converters, put into real graphs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lrclr_export.onnx.onnx_graph import TypedGraph

    Fault = Callable[[onnx.ModelProto], None]

_WEIGHED = {"Conv": 1, "Gemm": 1, "MatMul": 1, "LayerNormalization": 1, "Gather": 0}


def with_faults(graph: TypedGraph, *faults: Fault) -> TypedGraph:
    """A copy of `graph` with faults in it."""
    proto = ir.to_proto(graph.model)
    for fault in faults:
        fault(proto)
    onnx.checker.check_model(proto)
    return replace(graph, model=ir.from_proto(proto))


def spoil(path: Path, *faults: Fault) -> None:
    """Put faults into the ONNX file of a bundle."""
    proto = onnx.load(path)
    for fault in faults:
        fault(proto)
    del proto.graph.value_info[:]
    onnx.checker.check_model(proto)
    onnx.save_model(proto, path)


def noisy_weights(value: str, *, amount: float = 0.5) -> Fault:
    """Disturb the weights of the last layer before `value`."""

    def fault(proto: onnx.ModelProto) -> None:
        node, position = _weights_before(proto, value)
        name = node.input[position]
        weights = _array(proto, name)
        noise = np.random.default_rng(0).normal(size=weights.shape) * amount * max(float(weights.std()), 0.5)
        if node.op_type == "LayerNormalization":
            # The exporter shares equal initializers between layers; the fault is to be in one of them.
            proto.graph.initializer.append(numpy_helper.from_array((weights + noise).astype(weights.dtype), "faulty"))
            node.input[position] = "faulty"
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
        proto.graph.initializer.append(numpy_helper.from_array(scale, "faulty"))
        node.input[position] = "faulty"

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
    half = any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in proto.graph.initializer)
    factor = np.array(1.702, np.float16 if half else np.float32)
    proto.graph.initializer.append(numpy_helper.from_array(factor, "quick"))
    for position in reversed(range(len(proto.graph.node))):
        node = proto.graph.node[position]
        if node.op_type == "Gelu":
            (x,), (out,) = node.input, node.output
            node.CopyFrom(helper.make_node("Mul", [x, f"{out}_sigmoid"], [out]))
            proto.graph.node.insert(position, helper.make_node("Sigmoid", [f"{out}_scaled"], [f"{out}_sigmoid"]))
            proto.graph.node.insert(position, helper.make_node("Mul", [x, "quick"], [f"{out}_scaled"]))


def large_epsilon(proto: onnx.ModelProto) -> None:
    """Normalise with an epsilon that is too large."""
    for node in _of_type(proto, "LayerNormalization"):
        for attribute in node.attribute:
            if attribute.name == "epsilon":
                attribute.f = 0.3


def tiny_epsilon(proto: onnx.ModelProto) -> None:
    """Normalise with 1e-12, as another convention has it."""
    for node in _of_type(proto, "LayerNormalization"):
        for attribute in node.attribute:
            if attribute.name == "epsilon":
                attribute.f = 1e-12


def weight_off(amount: float = 0.5) -> Fault:
    """Add to one element of the second largest matrix that a product takes, in the units of the network."""

    def fault(proto: onnx.ModelProto) -> None:
        stored = {tensor.name: tensor for tensor in proto.graph.initializer}
        makers = {output: node for node in proto.graph.node for output in node.output}
        found = []
        for node in proto.graph.node:
            if node.op_type in {"MatMul", "Gemm"}:
                name, step = node.input[1], 1.0
                maker = makers.get(name)
                if maker is not None and maker.op_type == "DequantizeLinear":
                    name, step = maker.input[0], float(np.ravel(_array(proto, maker.input[1]))[5])
                if name in stored and len(stored[name].dims) == 2:
                    found.append((int(np.prod(stored[name].dims)), name, step))
        _, name, step = sorted(found)[-2]
        weights = _array(proto, name).copy()
        if weights.dtype == np.int8:
            weights[3, 5] = np.clip(int(weights[3, 5]) + round(amount / step), -128, 127)
        else:
            weights[3, 5] += amount
        _set(proto, name, weights)

    return fault


def exchanged(op_type: str, inputs: tuple[int, ...], first: int, second: int) -> Fault:
    """Give two nodes of a kind each other's weights."""

    def fault(proto: onnx.ModelProto) -> None:
        nodes = [node for node in _of_type(proto, op_type) if _is_weight(proto, node.input[inputs[0]])]
        one, other = nodes[first], nodes[second]
        for place in inputs:
            one.input[place], other.input[place] = other.input[place], one.input[place]

    return fault


def exchanged_products(first: int, second: int) -> Fault:
    """Give two products each other's weights."""

    def fault(proto: onnx.ModelProto) -> None:
        places = [(node, 1) for node in _of_type(proto, "MatMul") if _is_weight(proto, node.input[1])]
        # Of int8 the stored weights and their scales.
        stored = [node for node in _of_type(proto, "DequantizeLinear") if _is_weight(proto, node.input[0])]
        if stored:
            places = [(node, place) for node in (stored[first], stored[second]) for place in (0, 1)]
            pairs = [(places[0], places[2]), (places[1], places[3])]
        else:
            pairs = [(places[first], places[second])]
        for (one, place), (other, _) in pairs:
            one.input[place], other.input[place] = other.input[place], one.input[place]

    return fault


def shifted_rows(rows: int, *, by: int = 1) -> Fault:
    """Move the rows of the table of positions, which has so many."""

    def fault(proto: onnx.ModelProto) -> None:
        for tensor in proto.graph.initializer:
            shape = [size for size in tensor.dims if size != 1]
            if len(shape) == 2 and shape[0] == rows and not _multiplied(proto, tensor.name):
                array = _array(proto, tensor.name)
                _set(proto, tensor.name, np.roll(array, by, axis=list(tensor.dims).index(rows)))
                return
        raise AssertionError(f"no table has {rows} rows")

    return fault


def without_bias(proto: onnx.ModelProto) -> None:
    """Set the largest bias that is added to a product to zero."""
    stored = {tensor.name for tensor in proto.graph.initializer}
    biases = {name for node in _of_type(proto, "Add") for name in node.input if name in stored}
    name = max(biases, key=lambda each: (_array(proto, each).ndim == 1, np.abs(_array(proto, each)).sum(), each))
    _set(proto, name, np.zeros_like(_array(proto, name)))


def without_layer(place: int) -> Fault:
    """Leave out the branch beside a residual connection."""

    def fault(proto: onnx.ModelProto) -> None:
        made = {output: number for number, node in enumerate(proto.graph.node) for output in node.output}
        normed = {name for node in _of_type(proto, "LayerNormalization") for name in _sources(proto, node.input[0])}
        sums = [
            node
            for node in _of_type(proto, "Add")
            if all(name in made for name in node.input) and not normed.isdisjoint(node.output)
        ]
        node = sums[place]
        kept = min(node.input, key=lambda name: made[name])
        node.CopyFrom(helper.make_node("Identity", [kept], list(node.output)))

    return fault


def softmax_over_queries(proto: onnx.ModelProto) -> None:
    """Normalise attention over the wrong axis."""
    for node in _of_type(proto, "Softmax"):
        for attribute in node.attribute:
            if attribute.name == "axis":
                attribute.i = -2


def without_attention_scale(proto: onnx.ModelProto) -> None:
    """Leave the factors on the attention's query and on its product with the key out."""
    before = [_of_type(proto, "Softmax")[0].input[0]]
    past_product = False
    while before:
        node = _producer(proto, before.pop(0))
        if node is None:
            continue
        scalars = [name for name in node.input if _is_weight(proto, name) and _array(proto, name).size == 1]
        if node.op_type == "Mul" and scalars:
            _set(proto, scalars[0], np.ones(()))
        past_product = past_product or node.op_type == "MatMul"
        if not past_product or node.op_type == "MatMul":
            before += [name for name in node.input if not _is_weight(proto, name)]


def without_padding_mask(proto: onnx.ModelProto) -> None:
    """Take padding for words."""
    for node in proto.graph.node:
        for place, name in enumerate(node.input):
            if name == "text_mask":
                node.input[place] = "fault_ones"
    ones = numpy_helper.from_array(np.array([1], np.int64))
    proto.graph.node.insert(0, helper.make_node("ConstantOfShape", ["fault_shape"], ["fault_ones"], value=ones))
    proto.graph.node.insert(0, helper.make_node("Shape", ["text_mask"], ["fault_shape"]))


def eot_one_too_early(proto: onnx.ModelProto) -> None:
    """Pool the token before EOT."""
    (node,) = _of_type(proto, "ArgMax")
    place = list(proto.graph.node).index(node)
    output = node.output[0]
    node.output[0] = "fault_position"
    proto.graph.initializer.append(numpy_helper.from_array(np.array(1, np.int64), "fault_one"))
    proto.graph.node.insert(place + 1, helper.make_node("Sub", ["fault_position", "fault_one"], [output]))


def outputs_exchanged(one: str, other: str) -> Fault:
    """Call each of two outputs by the other's name."""

    def fault(proto: onnx.ModelProto) -> None:
        first, second = _renamed(proto, one), _renamed(proto, other)
        declared = {value.name: value for value in proto.graph.output}
        kept = onnx.ValueInfoProto()
        kept.type.CopyFrom(declared[one].type)
        declared[one].type.CopyFrom(declared[other].type)
        declared[other].type.CopyFrom(kept.type)
        proto.graph.node.append(helper.make_node("Identity", [first], [other]))
        proto.graph.node.append(helper.make_node("Identity", [second], [one]))

    return fault


def reversed_along(axis: int, *outputs: str, keep_first: bool = False) -> Fault:
    """Turn the order of an axis round, of several outputs alike; `keep_first` leaves the first row of tokens."""

    def fault(proto: onnx.ModelProto) -> None:
        for name in outputs:
            original = _renamed(proto, name)
            first = keep_first and name == "region_tokens"
            for each, value in (("start", -1), ("end", 0 if first else -(2**31)), ("axis", axis), ("step", -1)):
                array = np.array([value], np.int64)
                proto.graph.initializer.append(numpy_helper.from_array(array, f"fault_{name}_{each}"))
            slices = [f"fault_{name}_{each}" for each in ("start", "end", "axis", "step")]
            turned = f"fault_{name}_turned" if first else name
            proto.graph.node.append(helper.make_node("Slice", [original, *slices], [turned]))
            if first:
                for each, value in (("from", 0), ("to", 1)):
                    array = np.array([value], np.int64)
                    proto.graph.initializer.append(numpy_helper.from_array(array, f"fault_{name}_{each}"))
                bounds = [f"fault_{name}_from", f"fault_{name}_to", f"fault_{name}_axis"]
                proto.graph.node.append(helper.make_node("Slice", [original, *bounds], [f"fault_{name}_first"]))
                parts = [f"fault_{name}_first", turned]
                proto.graph.node.append(helper.make_node("Concat", parts, [name], axis=axis))

    return fault


def transposed_inside(output: str) -> Fault:
    """Exchange the last two axes of an output, and keep its shape."""

    def fault(proto: onnx.ModelProto) -> None:
        original = _renamed(proto, output)
        proto.graph.node.extend(
            [
                helper.make_node("Shape", [original], ["fault_shape"]),
                helper.make_node("Transpose", [original], ["fault_turned"], perm=[0, 2, 1]),
                helper.make_node("Reshape", ["fault_turned", "fault_shape"], [output]),
            ]
        )

    return fault


def one_region_only(proto: onnx.ModelProto) -> None:
    """Give the best region again and again."""
    original = _renamed(proto, "region_index")
    for each, value in (("from", 0), ("to", 1), ("axis", 1)):
        proto.graph.initializer.append(numpy_helper.from_array(np.array([value], np.int64), f"fault_{each}"))
    proto.graph.node.extend(
        [
            helper.make_node("Slice", [original, "fault_from", "fault_to", "fault_axis"], ["fault_first"]),
            helper.make_node("Shape", [original], ["fault_shape"]),
            helper.make_node("Expand", ["fault_first", "fault_shape"], ["region_index"]),
        ]
    )


def last_layer_only(proto: onnx.ModelProto) -> None:
    """Take the regions from the last layer's attention instead of the rollout over all layers."""
    for node in proto.functions[0].node:
        if node.op_type == "MatMul":
            node.CopyFrom(helper.make_node("Identity", [node.input[0]], list(node.output)))


def only_at(size: int, axis: int, given: str, output: str) -> Fault:
    """Let an output be 5 % too large (an index: one too high) where an axis of an input has this size."""

    def fault(proto: onnx.ModelProto) -> None:
        kind = next(value for value in proto.graph.output if value.name == output).type.tensor_type.elem_type
        whole = kind == onnx.TensorProto.INT64
        dtype = np.int64 if whole else np.float32
        original = _renamed(proto, output)
        constants = {
            "size": np.array([size], np.int64),
            "more": np.array([1 if whole else 0.05], dtype),
            "one": np.array([1], dtype),
        }
        for name, array in constants.items():
            proto.graph.initializer.append(numpy_helper.from_array(array, f"fault_{name}"))
        operation = ["Add", [original, "fault_by"]] if whole else ["Mul", [original, "fault_factor"]]
        proto.graph.node.extend(
            [
                helper.make_node("Shape", [given], ["fault_found"], start=axis, end=axis + 1),
                helper.make_node("Equal", ["fault_found", "fault_size"], ["fault_there"]),
                helper.make_node("Cast", ["fault_there"], ["fault_there_too"], to=kind),
                helper.make_node("Mul", ["fault_there_too", "fault_more"], ["fault_by"]),
                *([] if whole else [helper.make_node("Add", ["fault_by", "fault_one"], ["fault_factor"])]),
                helper.make_node(operation[0], operation[1], [output]),
            ]
        )

    return fault


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
    return _then(output, "Add", np.array(amount, np.int64 if isinstance(amount, int) else np.float32))


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
            proto.graph.initializer.append(numpy_helper.from_array(array, f"fault_{name}"))
        proto.graph.node.extend(
            [
                helper.make_node("Shape", [proto.graph.input[0].name], ["fault_size"], start=axis, end=axis + 1),
                helper.make_node("Cast", ["fault_size"], ["fault_as"], to=whole),
                helper.make_node("Sub", ["fault_usual", "fault_as"], ["fault_less"]),
                helper.make_node("Mul", ["fault_less", "fault_amount"], ["fault_more"]),
                helper.make_node("Div", ["fault_more", "fault_span"], ["fault_operand"]),
            ]
        )
        _append(proto, output, "Add", "fault_operand")

    return fault


def blend_of_batch(output: str, share: float) -> Fault:
    """Mix the mean over the batch into an output."""

    def fault(proto: onnx.ModelProto) -> None:
        original = _renamed(proto, output)
        proto.graph.initializer.append(numpy_helper.from_array(np.array([0], np.int64), "fault_axis"))
        proto.graph.initializer.append(numpy_helper.from_array(np.array(share, np.float32), "fault_share"))
        proto.graph.initializer.append(numpy_helper.from_array(np.array(1 - share, np.float32), "fault_rest"))
        proto.graph.node.extend(
            [
                helper.make_node("ReduceMean", [original, "fault_axis"], ["fault_mean"]),
                helper.make_node("Mul", ["fault_mean", "fault_share"], ["fault_mixed"]),
                helper.make_node("Mul", [original, "fault_rest"], ["fault_own"]),
                helper.make_node("Add", ["fault_mixed", "fault_own"], [output]),
            ]
        )

    return fault


def _then(output: str, op_type: str, operand: Any) -> Fault:
    def fault(proto: onnx.ModelProto) -> None:
        proto.graph.initializer.append(numpy_helper.from_array(operand, "fault_operand"))
        _append(proto, output, op_type, "fault_operand")

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


def _sources(proto: onnx.ModelProto, value: str) -> list[str]:
    """A value, and what it was converted from."""
    found = [value]
    while (makers := [node for node in _of_type(proto, "Cast") if found[-1] in node.output]) != []:
        found.append(makers[0].input[0])
    return found


def _is_weight(proto: onnx.ModelProto, name: str) -> bool:
    return any(tensor.name == name for tensor in proto.graph.initializer)


def _multiplied(proto: onnx.ModelProto, name: str) -> bool:
    products = {"MatMul", "Gemm", "DequantizeLinear"}
    return any(name in node.input for node in proto.graph.node if node.op_type in products)


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
