"""Half precision where it is safe, and the proof of what a graph computes in, int8 included."""

from __future__ import annotations

import copy
from collections import Counter
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from lrclr.gates import GateResult

if TYPE_CHECKING:
    import onnx_ir as ir

    from lrclr.model import LrclrModel

# What carries the cost, and must have the precision that was asked for; what must stay float32 whatever was asked.
_HEAVY = ("Conv", "Gemm", "MatMul")
_DELICATE = ("LayerNormalization", "Softmax", "ReduceSum", "ReduceL2", "Sqrt", "TopK")
_REDUCED = ("float16", "int8")


class _Float32LayerNorm(nn.LayerNorm):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        return super().forward(input.float()).to(input.dtype)


def half_precision(model: LrclrModel) -> LrclrModel:
    """A copy of `model` whose products are in float16; LayerNorms compute in float32 with float32 weights.

    The network itself keeps softmax, region selection and the final normalisation in float32.
    """
    half: LrclrModel = copy.deepcopy(model).half()
    norms = {name: module for name, module in model.named_modules() if isinstance(module, nn.LayerNorm)}
    for name, original in norms.items():
        island = _Float32LayerNorm(original.normalized_shape, eps=original.eps)
        island.load_state_dict(original.state_dict())
        parent, _, child = name.rpartition(".")
        setattr(half.get_submodule(parent), child, island)
    half.eval()
    return half


def precision_histogram(graph: ir.Graph) -> dict[str, dict[str, int]]:
    """How many nodes of each kind compute in which type, and how many bytes of weights have which type.

    A product of two dequantised int8 tensors counts as int8, and so does, under ``"layers"``, each weight in one.
    """
    nodes: dict[str, Counter[str]] = {}
    for node in graph.all_nodes():
        if node.op_type in _HEAVY + _DELICATE:
            nodes.setdefault(node.op_type, Counter())[_computes_in(node)] += 1
    weights: Counter[str] = Counter()
    for value in graph.initializers.values():
        if value.const_value is not None:
            weights[_type_name(value.const_value.dtype)] += value.const_value.nbytes
    ordered = {kind: dict(sorted(nodes[kind].items())) for kind in sorted(nodes)}
    layers = {node.inputs[1] for node in graph.all_nodes() if node.op_type in _HEAVY and _computes_in(node) == "int8"}
    quantised: dict[str, dict[str, int]] = {"layers": {"int8": len(layers)}} if layers else {}
    return {**ordered, **quantised, "weight_bytes": dict(sorted(weights.items()))}


def precision_gate(
    graph: str, histogram: dict[str, dict[str, int]], precision: str, *, int8_layers: int = 0
) -> list[GateResult]:
    """No product in another type than was asked for, no delicate node in half precision.

    Args:
        graph: its name.
        histogram: of it.
        precision: that was asked for.
        int8_layers: how many layers were quantised; the other products of an int8 graph are in float32.
    """
    if precision == "int8":
        return _int8_gate(graph, histogram, int8_layers)
    heavy = {"fp16": "float16", "fp32": "float32"}[precision]
    wrong = sum(count for kind in _HEAVY for name, count in histogram.get(kind, {}).items() if name != heavy)
    total = sum(sum(histogram.get(kind, {}).values()) for kind in _HEAVY)
    half = sum(histogram.get(kind, {}).get("float16", 0) for kind in _DELICATE)
    return [
        GateResult(f"products not in {precision}", graph, wrong, 0, "max", f"{total} products"),
        GateResult("delicate nodes in half precision", graph, half, 0, "max"),
    ]


def _int8_gate(graph: str, histogram: dict[str, dict[str, int]], wanted: int) -> list[GateResult]:
    products = [(name, count) for kind in _HEAVY for name, count in histogram.get(kind, {}).items()]
    others = sum(count for name, count in products if name not in {"int8", "float32"})
    delicate = sum(count for kind in _DELICATE for name, count in histogram.get(kind, {}).items() if name in _REDUCED)
    layers = histogram.get("layers", {}).get("int8", 0)
    total = sum(count for _, count in products)
    return [
        GateResult("layers in int8", graph, layers, wanted, "min"),
        GateResult("products neither in int8 nor in float32", graph, others, 0, "max", f"{total} products"),
        GateResult("delicate nodes in int8 or half precision", graph, delicate, 0, "max"),
    ]


def _computes_in(node: ir.Node) -> str:
    first = node.inputs[0]
    if node.op_type in _HEAVY and all(_dequantised(value) for value in node.inputs[:2]):
        return "int8"
    return _type_name(first.dtype if first is not None else None)


def _dequantised(value: ir.Value | None) -> bool:
    """Whether it is made of int8 numbers, which an engine multiplies as such."""
    maker = value.producer() if value is not None else None
    if maker is None or maker.op_type != "DequantizeLinear" or maker.inputs[0] is None:
        return False
    dtype = maker.inputs[0].dtype
    return dtype is not None and dtype.name == "INT8"


def _type_name(dtype: Any) -> str:
    return "unknown" if dtype is None else str(torch_name(dtype))


def torch_name(dtype: ir.DataType) -> str:
    """``float16`` and the like, as NumPy and torch spell it."""
    return {"FLOAT": "float32", "FLOAT16": "float16", "DOUBLE": "float64", "BFLOAT16": "bfloat16"}.get(
        dtype.name, dtype.name.lower()
    )
