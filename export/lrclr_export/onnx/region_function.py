"""The definition of the nodes ``lrclr::RegionSelect`` and ``lrclr::RegionSelectQK`` in standard operators.

Every runtime that expands functions runs the nodes by it. This module needs no torch: a machine that builds plans may
have none.
"""

from __future__ import annotations

import onnx
from onnx import AttributeProto, FunctionProto, helper

DOMAIN = "lrclr"
OP_TYPE = "RegionSelect"
QK_OP_TYPE = "RegionSelectQK"
"""The same from queries and keys, in plans; `lrclr_export.plans` puts it in the place of the other."""
VERSION = 2
"""Of the domain. Version 1 had no start row among its inputs, and always a CLS token."""
PLUGIN_VERSION = "1"
"""By which TensorRT finds the plugin."""


def region_function(num_maps: int, *, mean: bool, prefix: int, opset: int) -> FunctionProto:
    """The definition of ``lrclr::RegionSelect`` over `num_maps` whole maps, in standard operators of `opset`.

    Inputs are the tokens ``[B, N, D]``, the start row ``[B, G, 1, N]`` of the rollout, and the maps ``[B, G, N, N]`` of
    the layers below it. The chain and the top-k are float32; ONNX's TopK breaks ties towards the lower index.

    Args:
        num_maps: whole maps.
        mean: whether heads are averaged and the identity is added to each map.
        prefix: tokens before the patches, 0 or 1; see `lrclr.model.rollout_row`.
        opset: opset of the operators.
    """
    maps = [f"map_{i}" for i in range(num_maps)]
    body = _selection(maps, mean=mean, prefix=prefix)
    return _function(OP_TYPE, ["tokens", "start", *maps], body, opset, _ATTRIBUTES)


def qk_function(num_maps: int, *, mean: bool, prefix: int, opset: int) -> FunctionProto:
    """The definition of ``lrclr::RegionSelectQK`` over the queries and keys of `num_maps` layers.

    It computes the attention maps as the network's layers do, and selects as ``lrclr::RegionSelect``.
    """
    pairs = [(f"query_{i}", f"key_{i}") for i in range(num_maps)]
    scale = helper.make_node("Constant", [], ["scale_of_scores"])
    scale.attribute.append(AttributeProto(name="value_float", ref_attr_name="scale", type=AttributeProto.FLOAT))
    body = [scale]
    for i, (query, key) in enumerate(pairs):
        body += [
            helper.make_node("Transpose", [query], [f"rows_{i}"], perm=[0, 2, 1, 3]),
            helper.make_node("Transpose", [key], [f"columns_{i}"], perm=[0, 2, 3, 1]),
            helper.make_node("CastLike", ["scale_of_scores", query], [f"scale_{i}"]),
            helper.make_node("Mul", [f"rows_{i}", f"scale_{i}"], [f"scaled_{i}"]),
            helper.make_node("MatMul", [f"scaled_{i}", f"columns_{i}"], [f"scores_{i}"]),
            helper.make_node("Cast", [f"scores_{i}"], [f"logits_{i}"], to=onnx.TensorProto.FLOAT),
            helper.make_node("Softmax", [f"logits_{i}"], [f"map_{i}"], axis=-1),
        ]
    body += _selection([f"map_{i}" for i in range(num_maps)], mean=mean, prefix=prefix)
    inputs = ["tokens", "start", *(name for pair in pairs for name in pair)]
    return _function(QK_OP_TYPE, inputs, body, opset, [*_ATTRIBUTES, "scale"])


_ATTRIBUTES = ["top_k", "mean", "prefix", "plugin_namespace", "plugin_version"]


def _function(
    name: str, inputs: list[str], body: list[onnx.NodeProto], opset: int, attributes: list[str]
) -> FunctionProto:
    return helper.make_function(
        DOMAIN,
        name,
        inputs=inputs,
        outputs=["region_tokens", "region_index", "region_importance"],
        nodes=body,
        opset_imports=[helper.make_opsetid("", opset)],
        attributes=attributes,
    )


def _selection(maps: list[str], *, mean: bool, prefix: int) -> list[onnx.NodeProto]:
    """From ``tokens``, ``start`` and the layers' maps to the outputs."""
    body = [
        _constant("zero", [0]),
        _constant("one", [1]),
        _constant("two", [2]),
        _constant("last_axis", [-1]),
        _constant("end", [2**31 - 1]),
        _constant("flat", [0, -1]),
    ]
    row, matrices = "start", maps
    if mean:
        for name in [*maps, *(["start"] if prefix else [])]:
            body += _with_identity(name)
        matrices = [f"{name}_prepared" for name in maps]
        row = "start_prepared"
        if not prefix:
            # The start row is not a token's: it has no identity.
            body.append(helper.make_node("ReduceMean", ["start", "one"], [row], keepdims=1))
    for i, matrix in enumerate(reversed(matrices)):
        body.append(helper.make_node("MatMul", [row, matrix], [f"chain_{i}"]))
        row = f"chain_{i}"
    patches = [helper.make_node("Slice", [row, "one", "end", "last_axis"], ["of_patches"])] if prefix else []
    row = "of_patches" if prefix else row
    take_k = helper.make_node("Constant", [], ["k"])
    take_k.attribute.append(AttributeProto(name="value_int", ref_attr_name="top_k", type=AttributeProto.INT))
    body += [
        *patches,
        helper.make_node("Squeeze", [row, "two"], ["importance"]),
        take_k,
        helper.make_node("Reshape", ["k", "one"], ["k_vector"]),
        helper.make_node("TopK", ["importance", "k_vector"], ["best", "best_index"], axis=-1, largest=1, sorted=1),
        helper.make_node("Reshape", ["best", "flat"], ["region_importance"]),
        helper.make_node("Reshape", ["best_index", "flat"], ["region_index"]),
        *(_rows_with_cls() if prefix else []),
        helper.make_node("Unsqueeze", ["rows" if prefix else "region_index", "last_axis"], ["row_indices"]),
        helper.make_node("GatherND", ["tokens", "row_indices"], ["region_tokens"], batch_dims=1),
    ]
    return body


def _rows_with_cls() -> list[onnx.NodeProto]:
    return [
        helper.make_node("Add", ["region_index", "one"], ["patch_rows"]),
        helper.make_node("Slice", ["patch_rows", "zero", "one", "one"], ["a_column"]),
        helper.make_node("Mul", ["a_column", "zero"], ["cls_row"]),
        helper.make_node("Concat", ["cls_row", "patch_rows"], ["rows"], axis=1),
    ]


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
