"""The region selection of the network as one ONNX node, ``lrclr::RegionSelect``.

The node carries its own definition as an ONNX function, by which every runtime that expands functions runs it, and
attributes by which TensorRT maps it to a plugin of the same name instead. For runtimes that expand no functions, such
as OpenVINO, `lrclr_export.onnx.onnx_graph.inlined` does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence  # noqa: TC003 - the operator's schema is read from annotations
from typing import Any

import onnx
import torch
from onnx import AttributeProto, FunctionProto, helper
from onnxscript.values import Op, Opset

import lrclr.model.region_op  # noqa: F401 - makes the operator known to torch

DOMAIN = "lrclr"
OP_TYPE = "RegionSelect"
VERSION = 1


def _operator(num_maps: int) -> Op:
    parameter = onnx.defs.OpSchema.FormalParameter
    attribute, kind = onnx.defs.OpSchema.Attribute, onnx.defs.OpSchema.AttrType
    schema = onnx.defs.OpSchema(
        OP_TYPE,
        DOMAIN,
        VERSION,
        # Spelled out rather than variadic: onnxscript 0.7 passes the argument before a variadic one twice.
        inputs=[parameter("tokens", "T"), *(parameter(f"map_{i}", "tensor(float)") for i in range(num_maps))],
        outputs=[
            parameter("region_tokens", "T"),
            parameter("region_index", "tensor(int64)"),
            parameter("region_importance", "tensor(float)"),
        ],
        type_constraints=[("T", ["tensor(float)", "tensor(float16)"], "")],
        attributes=[
            attribute("top_k", kind.INT, "", required=True),
            attribute("mean", kind.INT, "", required=True),
            attribute("plugin_namespace", kind.STRING, "", required=True),
            attribute("plugin_version", kind.STRING, "", required=True),
        ],
    )
    return Op(Opset(DOMAIN, VERSION), OP_TYPE, schema)


def _translate(maps: Sequence[Any], tokens: Any, top_k: int, mean: bool) -> Any:
    # plugin_namespace is what makes TensorRT look for a plugin; without it the function body would win there.
    return _operator(len(maps))(
        tokens, *maps, top_k=top_k, mean=int(mean), plugin_namespace=DOMAIN, plugin_version=str(VERSION)
    )


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {torch.ops.lrclr.region_select.default: _translate}


def region_function(num_maps: int, *, mean: bool, opset: int) -> FunctionProto:
    """The definition of ``lrclr::RegionSelect`` for `num_maps` layers, in standard operators of `opset`.

    The chain and the top-k are float32; ONNX's TopK breaks ties towards the lower index.
    """
    maps = [f"map_{i}" for i in range(num_maps)]
    body = [
        _constant("zero", [0]),
        _constant("one", [1]),
        _constant("two", [2]),
        _constant("last_axis", [-1]),
        _constant("end", [2**31 - 1]),
        _constant("flat", [0, -1]),
        # Whoever wrote the graph may have kept all rows of the last map; the chain starts from CLS's alone.
        helper.make_node("Slice", [maps[-1], "zero", "one", "two"], ["row_of_cls"]),
    ]
    prepared = []
    for name in [*maps[:-1], "row_of_cls"]:
        if mean:
            body += _with_identity(name)
            prepared.append(f"{name}_prepared")
        else:
            prepared.append(name)
    row = prepared.pop()
    for i, matrix in enumerate(reversed(prepared)):
        body.append(helper.make_node("MatMul", [row, matrix], [f"chain_{i}"]))
        row = f"chain_{i}"
    take_k = helper.make_node("Constant", [], ["k"])
    take_k.attribute.append(AttributeProto(name="value_int", ref_attr_name="top_k", type=AttributeProto.INT))
    body += [
        helper.make_node("Slice", [row, "one", "end", "last_axis"], ["of_patches"]),
        helper.make_node("Squeeze", ["of_patches", "two"], ["importance"]),
        take_k,
        helper.make_node("Reshape", ["k", "one"], ["k_vector"]),
        helper.make_node("TopK", ["importance", "k_vector"], ["best", "best_index"], axis=-1, largest=1, sorted=1),
        helper.make_node("Reshape", ["best", "flat"], ["region_importance"]),
        helper.make_node("Reshape", ["best_index", "flat"], ["region_index"]),
        helper.make_node("Add", ["region_index", "one"], ["patch_rows"]),
        helper.make_node("Slice", ["patch_rows", "zero", "one", "one"], ["a_column"]),
        helper.make_node("Mul", ["a_column", "zero"], ["cls_row"]),
        helper.make_node("Concat", ["cls_row", "patch_rows"], ["rows"], axis=1),
        helper.make_node("Unsqueeze", ["rows", "last_axis"], ["row_indices"]),
        helper.make_node("GatherND", ["tokens", "row_indices"], ["region_tokens"], batch_dims=1),
    ]
    return helper.make_function(
        DOMAIN,
        OP_TYPE,
        inputs=["tokens", *maps],
        outputs=["region_tokens", "region_index", "region_importance"],
        nodes=body,
        opset_imports=[helper.make_opsetid("", opset)],
        attributes=["top_k", "mean", "plugin_namespace", "plugin_version"],
    )


def _with_identity(name: str) -> list[onnx.NodeProto]:
    """Average over heads, add the identity, renormalise the rows: Abnar and Zuidema's rollout."""
    averaged, mixed = f"{name}_averaged", f"{name}_mixed"
    return [
        helper.make_node("ReduceMean", [name, "one"], [averaged], keepdims=1),
        helper.make_node("Squeeze", [averaged, "one"], [f"{name}_plain"]),
        helper.make_node("Slice", [f"{name}_plain", "zero", "one", "zero"], [f"{name}_first"]),
        helper.make_node("Squeeze", [f"{name}_first", "zero"], [f"{name}_shape"]),
        helper.make_node("EyeLike", [f"{name}_shape"], [f"{name}_eye"]),
        helper.make_node("Add", [averaged, f"{name}_eye"], [mixed]),
        helper.make_node("ReduceSum", [mixed, "last_axis"], [f"{name}_total"], keepdims=1),
        helper.make_node("Div", [mixed, f"{name}_total"], [f"{name}_prepared"]),
    ]


def _constant(name: str, values: list[int]) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value_ints=values)
