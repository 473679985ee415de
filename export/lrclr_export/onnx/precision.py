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
from lrclr_export.quantize import Int8Linear
from lrclr_export.quantize._groups import PARTS, groups_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx_ir as ir

    from lrclr.model import LrclrModel
    from lrclr_export.onnx.activations import Float32Parts

# What carries the cost, and must have the precision that was asked for; what must stay float32 whatever was asked.
_HEAVY = ("Conv", "Gemm", "MatMul")
_DELICATE = ("LayerNormalization", "Softmax", "ReduceSum", "ReduceL2", "Sqrt", "TopK")
_REDUCED = ("float16", "int8")


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
        parent, _, child = name.rpartition(".")
        setattr(half.get_submodule(parent), child, island)
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
        parent, _, child = name.rpartition(".")
        setattr(half.get_submodule(parent), child, island)


def _to_float32(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
    return output.float()


class _HalfQuickGelu(nn.Module):
    """QuickGELU with its factor as half precision stores it."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(_as_half(1.702) * x)


def stored_in_float32(model: LrclrModel) -> LrclrModel:
    """The network in float32 arithmetic, with the weights and constants that `model` stores in half precision or int8.

    It differs from its exported graph by no rounding, once the graph is in float32 arithmetic too.
    """
    stored: LrclrModel = copy.deepcopy(model).float()
    half = next(model.parameters()).dtype == torch.float16
    for name, module in list(stored.named_modules()):
        if isinstance(module, Int8Linear):
            module.rounds_input = False
        if isinstance(module, _Float32LayerNorm):
            module.gives_half = False
        if half and isinstance(module, QuickGELUActivation):
            parent, _, child = name.rpartition(".")
            setattr(stored.get_submodule(parent), child, _HalfQuickGelu())
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
        stored: the same network in half precision or with int8 layers.
    """
    int8, steps = _int8_steps(original, stored)
    for name, value in original.named_parameters():
        module = name.rpartition(".")[0]
        if module not in int8:
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


def _int8_steps(original: LrclrModel, stored: LrclrModel) -> tuple[set[str], dict[str, float]]:
    """Names of the modules that int8 changed, and how many steps each weight of them is off at most."""
    changed: set[str] = set()
    steps: dict[str, float] = {}
    for group in (group for part in PARTS.values() for group in groups_of(original, part)):
        layers = {name: stored.get_submodule(name) for name in group.layers}
        if not all(isinstance(layer, Int8Linear) for layer in layers.values()):
            continue
        factors = torch.ones(())
        if group.norm is not None:
            norm, divided = original.get_submodule(group.norm), stored.get_submodule(group.norm)
            # The norm gives its channels divided by factors, which the weights make up for.
            factors = torch.where(divided.weight == 0, norm.bias / divided.bias, norm.weight / divided.weight)
            factors = factors.nan_to_num(1.0, 1.0, 1.0)
            for one, other in ((norm.weight, divided.weight), (norm.bias, divided.bias)):
                error = (one - other * factors).abs().max() / one.abs().max().clamp_min(1e-30)
                steps[group.norm] = max(steps.get(group.norm, 0.0), 0.5 * float(error) / 1e-5)
            changed.add(group.norm)
        for name, layer in layers.items():
            wanted = (original.get_submodule(name).weight.double() * factors).t() / layer.weight_scale
            bias = original.get_submodule(name).bias
            same = bias is None or torch.equal(bias, layer.bias)
            steps[name] = float((wanted - layer.weight.double()).abs().max()) if same else math.inf
            changed.add(name)
    return changed, steps


def precision_histogram(graph: ir.Graph) -> dict[str, dict[str, int]]:
    """How many nodes of each kind compute in which type, and how many bytes of weights have which type.

    A product of two dequantised int8 tensors counts as int8. ``"layers"`` counts the weights of the network in such
    products: a merged weight counts once for each part.
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
        node.inputs[1]: products_in(node)
        for node in graph.all_nodes()
        if node.op_type in _HEAVY and _computes_in(node) == "int8"
    }
    quantised: dict[str, dict[str, int]] = {"layers": {"int8": sum(layers.values())}} if layers else {}
    return {**ordered, **quantised, "weight_bytes": dict(sorted(weights.items()))}


def precision_gate(
    graph: str,
    histogram: dict[str, dict[str, int]],
    precision: str,
    *,
    int8_layers: int = 0,
    float32_layers: int = 0,
) -> list[GateResult]:
    """No product in another type than was asked for, no delicate node in half precision.

    Args:
        graph: its name.
        histogram: histogram of the graph.
        precision: the requested precision.
        int8_layers: how many layers were quantised; the other products of an int8 graph are in float32.
        float32_layers: how many layers of an fp16 graph stay in float32; see `float32_parts`.
    """
    if precision == "int8":
        return _int8_gate(graph, histogram, int8_layers)
    heavy = {"fp16": "float16", "fp32": "float32"}[precision]
    wrong = sum(count for kind in _HEAVY for name, count in histogram.get(kind, {}).items() if name != heavy)
    total = sum(sum(histogram.get(kind, {}).values()) for kind in _HEAVY)
    half = sum(histogram.get(kind, {}).get("float16", 0) for kind in _DELICATE)
    return [
        GateResult(f"products not in {precision}", graph, wrong, float32_layers, "max", f"{total} products"),
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
