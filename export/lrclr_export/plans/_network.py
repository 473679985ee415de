"""Parses an ONNX file to a strongly typed network of TensorRT, and checks it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from lrclr.errors import ExportError
from lrclr.verification import GateResult
from lrclr_export.onnx.region_function import OP_TYPE, QK_OP_TYPE
from lrclr_export.product_types import PRODUCT_TYPES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from onnx import ModelProto

_REGION_NODES = (OP_TYPE, QK_OP_TYPE)
_NAMES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT64": "int64",
    "INT8": "int8",
    "FP8": "float8",
    "INT32": "int32",
    "BOOL": "bool",
}
# As for the ONNX graph: layers that take most of the time, and layers that must compute in float32.
_HEAVY = ("CONVOLUTION", "MATRIX_MULTIPLY")
_QUANTISED = ("int8", "float8")
_DELICATE = ("NORMALIZATION", "REDUCE", "SOFTMAX", "TOPK")


def network_from_onnx(
    library: Any, builder: Any, log: Any, path: Path, name: str, model: ModelProto | None = None
) -> tuple[Any, Any]:
    """A network, and the parser that owns the memory of its weights.

    Args:
        library: module of TensorRT or TensorRT-RTX.
        builder: builder of that library.
        log: from `_callbacks.logger`.
        path: the ONNX file.
        name: name of the graph, for errors.
        model: graph to parse instead of the file's. Its external weights are beside `path`.

    Raises:
        ExportError: the graph cannot be parsed. The error names the node.
    """
    flags = library.NetworkDefinitionCreationFlag
    # In TensorRT 11 and RTX all networks are strongly typed, and the flag may be missing.
    known = [flag for flag in ("STRONGLY_TYPED", "PREFER_AOT_PYTHON_PLUGINS") if hasattr(flags, flag)]
    network = builder.create_network(sum(1 << int(getattr(flags, flag)) for flag in known))
    parser = library.OnnxParser(network, log)
    parsed = parser.parse_from_file(str(path)) if model is None else parser.parse(model.SerializeToString(), str(path))
    if not parsed or network.num_outputs == 0:
        raise ExportError(
            f"{_title(library)} does not support {name}",
            why=_first_error(parser, log),
            fix="Export the checkpoint again, with another --opset if the node is not supported.",
        )
    return network, parser


def precision_of_network(network: Any) -> dict[str, dict[str, int]]:
    """Number of layers of each kind by type. Layers of the region node's definition are counted separately.

    A product of two dequantised tensors of int8 or float8 counts as that type, since the library fuses them.
    """
    found: dict[str, Counter[str]] = {}
    dequantised: dict[str, str] = {}
    for layer in _layers(network):
        if _kind(layer) == "DEQUANTIZE" and _type(layer.get_input(0)) in _QUANTISED:
            dequantised[layer.get_output(0).name] = _type(layer.get_input(0))
        # The parser reshapes weights to the rank of the other operand.
        elif _kind(layer) == "SHUFFLE" and layer.get_input(0).name in dequantised:
            dequantised[layer.get_output(0).name] = dequantised[layer.get_input(0).name]
    for layer in _layers(network):
        kind = _kind(layer)
        if kind in _HEAVY + _DELICATE:
            node = _region_node_of(layer)
            inside = f"{node}." if node else ""
            stored = _quantised_factors(layer, dequantised) if kind in _HEAVY else None
            found.setdefault(inside + kind, Counter())[stored or _type(layer.get_input(0))] += 1
    return {kind: dict(sorted(found[kind].items())) for kind in sorted(found)}


def _quantised_factors(product: Any, dequantised: Mapping[str, str]) -> str | None:
    """The type of which both factors of a product are dequantised; None if not."""
    # Constant weights of a convolution are not inputs.
    factors = [product.get_input(place) for place in (0, 1)]
    types = {None if factor is None else dequantised.get(factor.name) for factor in factors}
    return types.pop() if len(types) == 1 else None


def precision_gates(
    graph: str,
    histogram: dict[str, dict[str, int]],
    precision: str,
    *,
    quantised_products: int = 0,
    float32_layers: int = 0,
) -> list[GateResult]:
    """Check that products have the type of the bundle, and that delicate layers and region selection are in float32.

    Args:
        graph: name of the graph.
        histogram: from `precision_of_network`.
        precision: precision of the bundle.
        quantised_products: number of int8 or float8 products of the ONNX graph. The others of an int8 bundle are in
            float32, and those of an fp8 bundle in float16.
        float32_layers: number of layers of an fp16 or fp8 bundle that stay in float32.
    """
    heavy = PRODUCT_TYPES[precision]
    products = [(type_, count) for kind in _HEAVY for type_, count in histogram.get(kind, {}).items()]
    wrong = sum(count for type_, count in products if type_ not in heavy)
    total = sum(count for _, count in products)
    delicate = [kind for kind in histogram if kind in _DELICATE or kind.startswith(_REGION_NODES)]
    half = sum(histogram[kind].get("float16", 0) for kind in delicate)
    # The node over queries and keys multiplies them in float16, as the layers do. A product of the chain follows each.
    scores = histogram.get(f"{QK_OP_TYPE}.MATRIX_MULTIPLY", {})
    half -= min(scores.get("float16", 0), scores.get("float32", 0))
    subject = f"{graph}, plan"
    quantised = []
    if heavy[0] in _QUANTISED:
        count = sum(count for type_, count in products if type_ == heavy[0])
        quantised = [GateResult(f"products in {precision}", subject, count, quantised_products, "min")]
    return [
        *quantised,
        GateResult("products", subject, total, 1, "min"),
        GateResult(f"products not in {precision}", subject, wrong, float32_layers, "max", f"{total} products"),
        GateResult("delicate nodes in half precision", subject, half, 0, "max"),
    ]


def region_selection(network: Any) -> str | None:
    """How regions are selected: ``"plugin"``, ``"function body"``, or None if the graph does not select any."""
    # Graphs of lrclr have no other plugin.
    if any(_kind(layer).startswith("PLUGIN") for layer in _layers(network)):
        return "plugin"
    return "function body" if any(_region_node_of(layer) for layer in _layers(network)) else None


def signature(network: Any) -> dict[str, dict[str, dict[str, Any]]]:
    """Type and shape of every input and output; -1 stands for a dynamic axis."""

    def described(tensors: Any) -> dict[str, dict[str, Any]]:
        return {tensor.name: {"type": _type(tensor), "shape": list(tensor.shape)} for tensor in tensors}

    return {
        "inputs": described(network.get_input(number) for number in range(network.num_inputs)),
        "outputs": described(network.get_output(number) for number in range(network.num_outputs)),
    }


def _layers(network: Any) -> Any:
    return (network.get_layer(number) for number in range(network.num_layers))


def _kind(layer: Any) -> str:
    return str(layer.type).rpartition(".")[2]


def _region_node_of(layer: Any) -> str | None:
    """Name of the region node to which a layer belongs."""
    metadata = getattr(layer, "metadata", "")
    return next((name for name in _REGION_NODES if f"({name})" in metadata), None)


def _type(tensor: Any) -> str:
    name = "none" if tensor is None else str(tensor.dtype).rpartition(".")[2]
    return _NAMES.get(name, name.lower())


def _title(library: Any) -> str:
    return "TensorRT-RTX" if library.__name__ == "tensorrt_rtx" else "TensorRT"


def _first_error(parser: Any, log: Any) -> str:
    if parser.num_errors == 0:
        return log.errors[0] if log.errors else "the graph is empty"
    error = parser.get_error(0)
    where = f"node {error.node_name()} ({error.node_operator()}): " if error.node_name() else ""
    return where + " ".join(error.desc().split())
