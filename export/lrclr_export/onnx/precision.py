"""Half precision where it is safe, and the checks of what a graph computes in and of the weights that it stores."""

from __future__ import annotations

import copy
import math
from collections import Counter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.activations import QuickGELUActivation

from lrclr.verification import GateResult
from lrclr_export.onnx.activations import TOWERS
from lrclr_export.onnx.merged_products import products_in
from lrclr_export.product_types import PRODUCT_TYPES
from lrclr_export.quantize import QuantizedLinear
from lrclr_export.quantize._groups import PARTS, groups_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx_ir as ir

    from lrclr.model import LrclrModel
    from lrclr_export.onnx.activations import Float32Parts

# What carries the cost, and must have the precision that was asked for; what must stay float32 whatever was asked.
_HEAVY = ("Conv", "Gemm", "MatMul")
_DELICATE = ("LayerNormalization", "Softmax", "ReduceSum", "ReduceL2", "Sqrt", "TopK")
_REDUCED = ("float16", "float8", "int8")


class _Float32LayerNorm(nn.LayerNorm):
    # Whether the output is in half precision whatever the input is.
    gives_half = False

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        return super().forward(input.float()).to(torch.float16 if self.gives_half else input.dtype)


class _Float32Linear(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        return super().forward(input.float())


def half_precision(model: LrclrModel, parts: Mapping[str, Float32Parts] | None = None) -> LrclrModel:
    """A copy of `model` whose products are in float16; LayerNorms compute in float32 with float32 weights.

    The network itself keeps softmax, region selection and the final normalisation in float32.

    Args:
        model: in float32.
        parts: what stays in float32 in the tower of each graph, from `float32_parts`.
    """
    half: LrclrModel = copy.deepcopy(model).half()
    norms = {name: module for name, module in model.named_modules() if isinstance(module, nn.LayerNorm)}
    for name, original in norms.items():
        island = _Float32LayerNorm(original.normalized_shape, eps=original.eps)
        island.load_state_dict(original.state_dict())
        half.set_submodule(name, island)
    for graph, kept in (parts or {}).items():
        if kept.residual_stream:
            _keep_in_float32(model.get_submodule(TOWERS[graph]), half.get_submodule(TOWERS[graph]), kept.layers)
            if graph == "image_encoder":
                # Region tokens are rows of the stream.
                head: Any = half.fusion_head
                head.regions_in_float32 = head.image_norm.gives_half = True
    half.eval()
    return half


def _keep_in_float32(original: nn.Module, half: Any, layers: Sequence[str]) -> None:
    """Keep the residual stream of a tower and some layers that write into it in float32."""
    # The sum of a number in float32 and one in float16 is in float32, so that the stream keeps the type it begins with.
    half.embeddings.register_forward_hook(_to_float32)
    for name, module in half.named_modules():
        if isinstance(module, _Float32LayerNorm) and name != "pre_layrnorm":
            module.gives_half = True
    for name in layers:
        linear: Any = original.get_submodule(name)
        island = _Float32Linear(linear.in_features, linear.out_features, linear.bias is not None)
        island.load_state_dict(linear.state_dict())
        half.set_submodule(name, island)


def _to_float32(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
    return output.float()


class _HalfQuickGelu(nn.Module):
    """QuickGELU with its factor as half precision stores it."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(_as_half(1.702) * x)


def stored_in_float32(model: LrclrModel) -> LrclrModel:
    """The network in float32 arithmetic, with the weights and constants that `model` stores in smaller types.

    It differs from its exported graph by no rounding, once the graph is in float32 arithmetic too.
    """
    stored: LrclrModel = copy.deepcopy(model).float()
    half = next(model.parameters()).dtype == torch.float16
    for name, module in list(stored.named_modules()):
        if isinstance(module, QuantizedLinear):
            module.rounds_input = False
        if isinstance(module, _Float32LayerNorm):
            module.gives_half = False
        if half and isinstance(module, QuickGELUActivation):
            stored.set_submodule(name, _HalfQuickGelu())
        for constant in ("scale", "scaling"):
            if half and isinstance(getattr(module, constant, None), float):
                setattr(module, constant, _as_half(getattr(module, constant)))
    stored.eval()
    return stored


def _as_half(value: float) -> float:
    return float(torch.tensor(value, dtype=torch.float16))


def rounding_gates(original: LrclrModel, stored: LrclrModel) -> list[GateResult]:
    """The weights of `stored` are those of `original`, each off by half a step of its type at most.

    Args:
        original: the network in float32.
        stored: the same network in half precision or with quantised layers.
    """
    quantised, steps = _quantised_steps(original, stored)
    for name, value in original.named_parameters():
        module = name.rpartition(".")[0]
        if module not in quantised:
            kept = stored.get_parameter(name).detach()
            limits = torch.finfo(kept.dtype)
            # Below the smallest normal number the step stays the same.
            step = limits.eps * value.detach().double().abs().clamp_min(limits.tiny)
            steps[name] = float(((kept.double() - value.detach().double()).abs() / step).max())
    worst = dict.fromkeys(("image_encoder", "text_encoder", "fusion_head"), 0.0)
    graphs = {"vision_model": "image_encoder", "visual_projection": "image_encoder", "fusion_head": "fusion_head"}
    for name, value in steps.items():
        graph = graphs.get(name.partition(".")[0], "text_encoder")
        worst[graph] = max(worst[graph], value)
    # A thousandth for the float32 arithmetic in which the steps are counted.
    return [GateResult("rounding of weights, in steps", graph, value, 0.501, "max") for graph, value in worst.items()]


def _quantised_steps(original: LrclrModel, stored: LrclrModel) -> tuple[set[str], dict[str, float]]:
    """Names of the modules that quantisation changed, and how many steps each weight of them is off at most."""
    changed: set[str] = set()
    steps: dict[str, float] = {}
    for group in (group for part in PARTS.values() for group in groups_of(original, part)):
        layers = {name: stored.get_submodule(name) for name in group.layers}
        if not all(isinstance(layer, QuantizedLinear) for layer in layers.values()):
            continue
        factors = torch.ones(())
        if group.norm is not None:
            norm, divided = original.get_submodule(group.norm), stored.get_submodule(group.norm)
            # The norm gives its channels divided by factors, which the weights make up for.
            factors = torch.where(divided.weight == 0, norm.bias / divided.bias, norm.weight / divided.weight)
            factors = factors.nan_to_num(1.0, 1.0, 1.0)
            for one, other in ((norm.weight, divided.weight), (norm.bias, divided.bias)):
                error = (one - other * factors).abs().max() / one.abs().max().clamp_min(1e-30)
                steps[group.norm] = max(steps.get(group.norm, 0.0), 0.5 * float(error.detach()) / 1e-5)
            changed.add(group.norm)
        for name, layer in layers.items():
            linear = original.get_submodule(name)
            bias = None if linear.bias is None else linear.bias.to(layer.bias.dtype)
            same = bias is None or torch.equal(bias, layer.bias)
            steps[name] = layer.steps_off((linear.weight.double() * factors).t().detach()) if same else math.inf
            changed.add(name)
    return changed, steps


def precision_histogram(graph: ir.Graph) -> dict[str, dict[str, int]]:
    """How many nodes of each kind compute in which type, and how many bytes of weights have which type.

    A product of two dequantised tensors counts as their stored type, int8 or float8. ``"layers"`` counts the weights of
    the network in such products: a merged weight counts once for each part.
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
    layers = {
        node.inputs[1]: (stored, products_in(node))
        for node in graph.all_nodes()
        if (stored := _quantised_type(node)) is not None
    }
    counted: Counter[str] = Counter()
    for stored, count in layers.values():
        counted[stored] += count
    quantised: dict[str, dict[str, int]] = {"layers": dict(sorted(counted.items()))} if layers else {}
    return {**ordered, **quantised, "weight_bytes": dict(sorted(weights.items()))}


def precision_gate(
    graph: str,
    histogram: dict[str, dict[str, int]],
    precision: str,
    *,
    quantised_layers: int = 0,
    float32_layers: int = 0,
) -> list[GateResult]:
    """No product in another type than was asked for, no delicate node in half precision.

    Args:
        graph: its name.
        histogram: histogram of the graph.
        precision: the requested precision.
        quantised_layers: how many layers were quantised; the other products are in float32 (int8) or float16 (fp8).
        float32_layers: how many layers of an fp16 or fp8 graph stay in float32; see `float32_parts`.
    """
    if len(PRODUCT_TYPES[precision]) > 1:
        return _quantised_gate(graph, histogram, precision, quantised_layers, float32_layers)
    (heavy,) = PRODUCT_TYPES[precision]
    wrong = sum(count for kind in _HEAVY for name, count in histogram.get(kind, {}).items() if name != heavy)
    total = sum(sum(histogram.get(kind, {}).values()) for kind in _HEAVY)
    half = sum(histogram.get(kind, {}).get("float16", 0) for kind in _DELICATE)
    return [
        GateResult(f"products not in {precision}", graph, wrong, float32_layers, "max", f"{total} products"),
        GateResult("delicate nodes in half precision", graph, half, 0, "max"),
    ]


def _quantised_gate(
    graph: str, histogram: dict[str, dict[str, int]], precision: str, wanted: int, float32_layers: int
) -> list[GateResult]:
    stored, otherwise = PRODUCT_TYPES[precision]
    products = [(name, count) for kind in _HEAVY for name, count in histogram.get(kind, {}).items()]
    others = sum(count for name, count in products if name not in {stored, otherwise})
    delicate = sum(count for kind in _DELICATE for name, count in histogram.get(kind, {}).items() if name in _REDUCED)
    layers = histogram.get("layers", {}).get(stored, 0)
    total = sum(count for _, count in products)
    neither = f"products neither in {precision} nor in {otherwise}"
    return [
        GateResult(f"layers in {precision}", graph, layers, wanted, "min"),
        GateResult(neither, graph, others, float32_layers, "max", f"{total} products"),
        GateResult(f"delicate nodes in {precision} or half precision", graph, delicate, 0, "max"),
    ]


def _computes_in(node: ir.Node) -> str:
    first = node.inputs[0]
    return _quantised_type(node) or _type_name(first.dtype if first is not None else None)


def _quantised_type(node: ir.Node) -> str | None:
    """The type of the numbers of which both factors are made, which an engine multiplies as such; None if not."""
    if node.op_type not in _HEAVY:
        return None
    types = {_stored_type(value) for value in node.inputs[:2]}
    return types.pop() if len(types) == 1 else None


def _stored_type(value: ir.Value | None) -> str | None:
    """The type of the numbers that a dequantised tensor is made of; None for other tensors."""
    maker = value.producer() if value is not None else None
    if maker is None or maker.op_type != "DequantizeLinear" or maker.inputs[0] is None:
        return None
    dtype = maker.inputs[0].dtype
    return _type_name(dtype) if dtype is not None and dtype.name in {"INT8", "FLOAT8E4M3FN"} else None


def _type_name(dtype: Any) -> str:
    return "unknown" if dtype is None else str(torch_name(dtype))


def torch_name(dtype: ir.DataType) -> str:
    """``float16`` and the like, as NumPy and torch spell it; ``float8`` is E4M3."""
    return {
        "FLOAT": "float32",
        "FLOAT16": "float16",
        "DOUBLE": "float64",
        "BFLOAT16": "bfloat16",
        "FLOAT8E4M3FN": "float8",
    }.get(dtype.name, dtype.name.lower())
