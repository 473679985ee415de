"""The region selection of the network as one ONNX node, ``lrclr::RegionSelect``.

The node carries its own definition as an ONNX function, by which every runtime that expands functions runs it, and
attributes by which TensorRT maps it to a plugin of the same name instead. For runtimes that expand no functions, such
as OpenVINO, `lrclr_export.onnx.onnx_graph.SavedGraph.save_inlined` writes a graph without them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx
import torch
from onnxscript.values import Op, Opset

import lrclr.model.region_op  # noqa: F401 - makes the operator known to torch
from lrclr_export.onnx.region_function import DOMAIN, OP_TYPE, PLUGIN_VERSION, VERSION


def _operator(num_maps: int) -> Op:
    parameter = onnx.defs.OpSchema.FormalParameter
    attribute, kind = onnx.defs.OpSchema.Attribute, onnx.defs.OpSchema.AttrType
    schema = onnx.defs.OpSchema(
        OP_TYPE,
        DOMAIN,
        VERSION,
        # Spelled out rather than variadic: onnxscript 0.7 passes the argument before a variadic one twice.
        inputs=[
            parameter("tokens", "T"),
            *(parameter(name, "tensor(float)") for name in ("start", *(f"map_{i}" for i in range(num_maps)))),
        ],
        outputs=[
            parameter("region_tokens", "T"),
            parameter("region_index", "tensor(int64)"),
            parameter("region_importance", "tensor(float)"),
        ],
        type_constraints=[("T", ["tensor(float)", "tensor(float16)"], "")],
        attributes=[
            attribute("top_k", kind.INT, "", required=True),
            attribute("mean", kind.INT, "", required=True),
            attribute("prefix", kind.INT, "", required=True),
            attribute("plugin_namespace", kind.STRING, "", required=True),
            attribute("plugin_version", kind.STRING, "", required=True),
        ],
    )
    return Op(Opset(DOMAIN, VERSION), OP_TYPE, schema)


def _translate(maps: Sequence[Any], tokens: Any, top_k: int, mean: bool, prefix: int) -> Any:
    # plugin_namespace is what makes TensorRT look for a plugin; without it the function body would win there.
    *whole, start = maps
    return _operator(len(whole))(
        tokens,
        start,
        *whole,
        top_k=top_k,
        mean=int(mean),
        prefix=prefix,
        plugin_namespace=DOMAIN,
        plugin_version=PLUGIN_VERSION,
    )


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {torch.ops.lrclr.region_select.default: _translate}
