"""``lrclr::RegionSelect`` in OpenVINO's operators, since its ONNX frontend ignores the function in the graph.

It computes the same as the function, with two differences. The chain multiplies and sums instead of using MatMul: when
OpenVINO computes in bfloat16, it rounds the inputs of a MatMul, and keeps values between the last MatMul and an output
in float32. So the chain and the softmax before it stay in float32. And each layer's rollout ``[B, G, N, N]`` is read
once, row by row.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

OP_TYPE: Final = "RegionSelect"
DOMAIN: Final = "lrclr"
_END: Final = 2**31 - 1


def region_extension(library: Any) -> Any:
    """Extension for `Core.add_extension` that reads graphs with the node.

    Args:
        library: the module ``openvino``.
    """
    from openvino.frontend.onnx import ConversionExtension

    return ConversionExtension(OP_TYPE, DOMAIN, lambda node: _converted(library.opset14, node))


def _converted(op: Any, node: Any) -> list[Any]:
    tokens, start, *maps = (node.get_input(place) for place in range(node.get_input_size()))
    mean, prefix = bool(node.get_attribute("mean")), int(node.get_attribute("prefix"))
    row = start
    if mean:
        row = _with_identity(op, start) if prefix else op.reduce_mean(start, [1], keep_dims=True)
    for matrix in reversed(maps):
        column = op.transpose(row, [0, 1, 3, 2])
        factor = _with_identity(op, matrix) if mean else matrix
        row = op.reduce_sum(op.multiply(column, factor), [2], keep_dims=True)
    importance = op.squeeze(op.slice(row, [prefix], [_END], [1], [3]), [2])
    top_k = np.int64(node.get_attribute("top_k"))
    # Stable: of equal values the lower patch number is selected, as in ONNX.
    best = op.topk(importance, top_k, -1, "max", "value", "i64", stable=True)
    values, index = (op.reshape(best.output(place), [0, -1], special_zero=True) for place in (0, 1))
    rows = op.add(index, np.int64(prefix))
    if prefix:
        first = op.multiply(op.slice(rows, [0], [1], [1], [1]), np.int64(0))
        rows = op.concat([first, rows], 1)
    gathered = op.gather(tokens, rows, np.int64(1), batch_dims=1)
    return [gathered.output(0), index.output(0), values.output(0)]


def _with_identity(op: Any, matrix: Any) -> Any:
    """Average over heads, add the identity, renormalise the rows: Abnar and Zuidema's rollout."""
    averaged = op.reduce_mean(matrix, [1], keep_dims=True)
    sizes = op.shape_of(averaged, "i64")
    rows, columns = (op.gather(sizes, np.int64(axis), np.int64(0)) for axis in (2, 3))
    mixed = op.add(averaged, op.eye(rows, columns, np.int64(0), "f32"))
    return op.divide(mixed, op.reduce_sum(mixed, [-1], keep_dims=True))
