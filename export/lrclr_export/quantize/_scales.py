"""Compares the scales in an exported graph with those of the network."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from lrclr.verification import GateResult
from lrclr_export.quantize._linear import Fp8Linear

if TYPE_CHECKING:
    import onnx_ir as ir

    from lrclr.model import LrclrModel

# The exporter names a weight after its module. Merged weights have the name of the first one.
_WEIGHT: Final = re.compile(r"model\.(?P<layer>.+)\.weight(?:\.merged_\d+)?")


def scale_gate(graph: str, exported: ir.Graph, model: LrclrModel) -> GateResult:
    """Check that every quantised product of a graph has the scales of its layer.

    Other gates may not notice a wrong scale of an input: FP8 has an exponent, so twice the scale changes nearly nothing
    on their images.

    Args:
        graph: name of the graph.
        exported: the graph.
        model: the network that was exported.
    """
    wrong = products = 0
    for node in exported.all_nodes():
        factors = [_made_by("DequantizeLinear", value) for value in node.inputs[:2]] if node.op_type == "MatMul" else []
        if not factors or None in factors:
            continue
        of_input, of_weight = factors
        found = [_scale(one) for one in (_made_by("QuantizeLinear", of_input.inputs[0]), of_input, of_weight)]
        match = _WEIGHT.fullmatch(of_weight.inputs[0].name)
        layer: Any = model.get_submodule(match["layer"]) if match is not None else None
        wanted = [] if layer is None else [layer.scale, layer.scale]
        if isinstance(layer, Fp8Linear):
            wanted.append(layer.weight_scale)
        same = [
            one is not None and one == np.asarray(other, one.dtype) for one, other in zip(found, wanted, strict=False)
        ]
        wrong += not (same and all(same))
        products += 1
    return GateResult("products with other scales than the network's", graph, wrong, 0, "max", f"{products} products")


def _made_by(op_type: str, value: Any) -> Any:
    maker = value.producer() if value is not None else None
    return maker if maker is not None and maker.op_type == op_type else None


def _scale(node: Any) -> Any:
    """The constant scale of a node; None without one."""
    constant = None if node is None else node.inputs[1].const_value
    return None if constant is None else constant.numpy()
