"""The types in which an engine runs the products of a bundle's graphs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from lrclr.contract import GRAPHS
from lrclr.engines import INT8_FLAGS, ProfiledEngine, products_by_type
from lrclr.verification._result import GateResult

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lrclr.bundle import Bundle, Golden

Products = dict[str, dict[str, int]]
_PRODUCTS: Final = ("Conv", "Gemm", "MatMul")
# Type of products in a graph, and the types in which an engine may run them.
_REDUCED: Final = {"int8": ("int8",), "float8": ("float8",), "float16": ("float16", "bfloat16")}
_ROWS: Final = 2


def executed_products(engine: ProfiledEngine, golden: Golden) -> Products:
    """Run each graph with the engine's profile, and return the number of its products by type.

    Args:
        engine: runs the graphs; an engine without operators gives no products.
        golden: the inputs.

    Raises:
        EngineError: the engine failed.
    """
    found = {}
    for name, graph in GRAPHS.items():
        inputs = {one: np.ascontiguousarray(golden[one][:_ROWS]) for one in graph.input_names}
        found[name] = products_by_type(engine.operators(name, inputs))
    return found


def executed_gates(bundle: Bundle, engine: ProfiledEngine, products: Products) -> tuple[list[GateResult], list[str]]:
    """Check that products that the graphs have in 8 or 16 bits run in such a type.

    A type is required only if both the engine and the processor have instructions for it.

    Args:
        bundle: the bundle.
        engine: the engine.
        products: from `executed_products` with this engine.

    Returns:
        The gates, and notes about types that were not required.
    """
    gates, notes = [], []
    for asked, types in _REDUCED.items():
        in_graphs = {name: _asked(bundle.manifest.graphs[name]["precision_histogram"], asked) for name in products}
        if not any(in_graphs.values()):
            continue
        if engine.product_types.isdisjoint(types):
            notes.append(_not_required(asked, engine))
            continue
        for name, wanted in in_graphs.items():
            if wanted and products[name]:
                in_type = sum(products[name].get(one, 0) for one in types)
                others = sum(products[name].values()) - in_type
                # An engine may have fewer products than the graph, since it merges some.
                missing = max(0, min(wanted - in_type, others))
                run = ", ".join(f"{count} in {one}" for one, count in products[name].items())
                note = f"of {wanted} products; the engine runs {run}"
                gates.append(GateResult(f"{asked} products that run in another type", name, missing, 0, "max", note))
    return gates, notes


def _asked(histogram: Mapping[str, Mapping[str, int]], dtype: str) -> int:
    return sum(histogram.get(kind, {}).get(dtype, 0) for kind in _PRODUCTS)


def _not_required(asked: str, engine: Any) -> str:
    if asked == "int8":
        return (
            "the gate of int8 products does not apply here: this processor reports none of the instructions "
            f"{', '.join(INT8_FLAGS)}, or the engine {engine.name} does not use them"
        )
    if asked == "float8":
        return (
            f"{engine.name} has no products in FP8: it rounded as a GPU does and multiplied in float32. `lrclr build` "
            "and `lrclr verify` check plans of TensorRT on the GPU"
        )
    return (
        f"the gate of 16-bit products does not apply here: {engine.name} has none on this processor, and computes "
        "these graphs in float32"
    )
