"""Faults at the outputs of a graph: scaled, exchanged or reversed, or dependent on the size of an input."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from benchmarks.gates.graph_edit import Fault, add_constants, add_node, element_type, rename_output


def times(output: str, factor: float) -> Fault:
    """Multiply an output."""
    return _combined(output, "Mul", np.array(factor, np.float32))


def plus(output: str, amount: float) -> Fault:
    """Add a number to an output."""
    return _combined(output, "Add", np.array(amount, np.int64 if isinstance(amount, int) else np.float32))


def exchanged_outputs(one: str, other: str) -> Fault:
    """Exchange the names of two outputs."""

    def fault(proto: onnx.ModelProto) -> None:
        first, second = rename_output(proto, one), rename_output(proto, other)
        declared = {value.name: value for value in proto.graph.output}
        kept = onnx.ValueInfoProto()
        kept.type.CopyFrom(declared[one].type)
        declared[one].type.CopyFrom(declared[other].type)
        declared[other].type.CopyFrom(kept.type)
        add_node(proto, "Identity", [first], other)
        add_node(proto, "Identity", [second], one)

    return fault


def reversed_along(axis: int, *outputs: str, keep_first: bool = False) -> Fault:
    """Reverse an axis of several outputs; `keep_first` leaves the first row of ``region_tokens``, which is CLS."""

    def fault(proto: onnx.ModelProto) -> None:
        for name in outputs:
            original = rename_output(proto, name)
            kept = keep_first and name == "region_tokens"
            end = 0 if kept else -(2**31)
            bounds = {"start": -1, "end": end, "axis": axis, "step": -1, "from": 0, "to": 1}
            add_constants(proto, **{f"{name}_{key}": np.array([value], np.int64) for key, value in bounds.items()})
            slices = [f"fault_{name}_{key}" for key in ("start", "end", "axis", "step")]
            turned = f"fault_{name}_turned" if kept else name
            add_node(proto, "Slice", [original, *slices], turned)
            if kept:
                first = [f"fault_{name}_{key}" for key in ("from", "to", "axis")]
                add_node(proto, "Slice", [original, *first], f"fault_{name}_first")
                add_node(proto, "Concat", [f"fault_{name}_first", turned], name, axis=axis)

    return fault


def transposed_inside(output: str) -> Fault:
    """Exchange the last two axes of an output, and keep its shape."""

    def fault(proto: onnx.ModelProto) -> None:
        original = rename_output(proto, output)
        add_node(proto, "Shape", [original], "fault_shape")
        add_node(proto, "Transpose", [original], "fault_turned", perm=[0, 2, 1])
        add_node(proto, "Reshape", ["fault_turned", "fault_shape"], output)

    return fault


def one_region_only(proto: onnx.ModelProto) -> None:
    """Return the first region in place of each."""
    original = rename_output(proto, "region_index")
    add_constants(proto, **{key: np.array([value], np.int64) for key, value in (("from", 0), ("to", 1), ("axis", 1))})
    add_node(proto, "Slice", [original, "fault_from", "fault_to", "fault_axis"], "fault_first")
    add_node(proto, "Shape", [original], "fault_shape")
    add_node(proto, "Expand", ["fault_first", "fault_shape"], "region_index")


def only_at(size: int, axis: int, given: str, output: str, share: float = 0.05) -> Fault:
    """Make an output larger by a share, or an index by one, where an axis of the input `given` has this size."""

    def fault(proto: onnx.ModelProto) -> None:
        kind = element_type(proto, output)
        whole = kind == onnx.TensorProto.INT64
        dtype = np.int64 if whole else np.float32
        original = rename_output(proto, output)
        more = np.array([1 if whole else share], dtype)
        add_constants(proto, size=np.array([size], np.int64), more=more, one=np.array([1], dtype))
        add_node(proto, "Shape", [given], "fault_found", start=axis, end=axis + 1)
        add_node(proto, "Equal", ["fault_found", "fault_size"], "fault_there")
        add_node(proto, "Cast", ["fault_there"], "fault_share", to=kind)
        add_node(proto, "Mul", ["fault_share", "fault_more"], "fault_by")
        if whole:
            add_node(proto, "Add", [original, "fault_by"], output)
        else:
            add_node(proto, "Add", ["fault_by", "fault_one"], "fault_factor")
            add_node(proto, "Mul", [original, "fault_factor"], output)

    return fault


def by_size(output: str, axis: int, usual: int, amount: float) -> Fault:
    """Let an output depend on the length of an axis of the input: right at `usual`, off by about `amount` elsewhere."""

    def fault(proto: onnx.ModelProto) -> None:
        kind = element_type(proto, output)
        dtype = np.int64 if kind == onnx.TensorProto.INT64 else np.float32
        numbers = {"usual": usual, "amount": amount, "span": usual - 1}
        add_constants(proto, **{name: np.array([value], dtype) for name, value in numbers.items()})
        add_node(proto, "Shape", [proto.graph.input[0].name], "fault_size", start=axis, end=axis + 1)
        add_node(proto, "Cast", ["fault_size"], "fault_as", to=kind)
        add_node(proto, "Sub", ["fault_usual", "fault_as"], "fault_less")
        add_node(proto, "Mul", ["fault_less", "fault_amount"], "fault_more")
        add_node(proto, "Div", ["fault_more", "fault_span"], "fault_operand")
        add_node(proto, "Add", [rename_output(proto, output), "fault_operand"], output)

    return fault


def blend_of_batch(output: str, share: float) -> Fault:
    """Mix the mean over the batch into an output."""

    def fault(proto: onnx.ModelProto) -> None:
        original = rename_output(proto, output)
        parts = {"share": np.array(share, np.float32), "rest": np.array(1 - share, np.float32)}
        add_constants(proto, axis=np.array([0], np.int64), **parts)
        add_node(proto, "ReduceMean", [original, "fault_axis"], "fault_mean")
        add_node(proto, "Mul", ["fault_mean", "fault_share"], "fault_mixed")
        add_node(proto, "Mul", [original, "fault_rest"], "fault_own")
        add_node(proto, "Add", ["fault_mixed", "fault_own"], output)

    return fault


def _combined(output: str, op_type: str, operand: Any) -> Fault:
    def fault(proto: onnx.ModelProto) -> None:
        add_constants(proto, operand=operand)
        add_node(proto, op_type, [rename_output(proto, output), "fault_operand"], output)

    return fault
