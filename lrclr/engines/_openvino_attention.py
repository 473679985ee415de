"""Rearranges query, key and value of each attention, so that OpenVINO copies and multiplies less.

They are parts of one product ``[B, N, K*H*C]``, which graphs split along the last axis. OpenVINO copies it for the
split, and copies each part again into the order ``[B, H, N, C]``. Here the whole product is put into the order
``[K, B, H, N, C]`` and split along its first axis, which takes no copy. The factors of the scores, which OpenVINO would
apply to the query at each run, become part of the weights.

The graphs of a bundle stay as they are, since ONNX Runtime copies at each split, and is slower with this order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

_HEADS_FIRST: Final = [0, 2, 1, 3]
_TRANSPOSED: Final = [0, 2, 3, 1]


class _Part(NamedTuple):
    """A part of a split that is reshaped to ``[B, N, H, C]`` and then transposed by the node `transpose`."""

    heads: int
    width: int
    transpose: Any


def rearrange_attention(op: Any, model: Any) -> None:
    """Change all attentions of a model.

    Args:
        op: the module ``openvino.opset14``.
        model: an ``openvino.Model``; it is changed.
    """
    for node in model.get_ordered_ops():
        if node.get_type_name() == "VariadicSplit" and _axis(node) == 2:
            found = [_part(output) for output in node.outputs()]
            parts = [part for part in found if part is not None]
            if len(parts) == len(found) and len({(part.heads, part.width) for part in parts}) == 1:
                _rearrange(op, node.input_value(0), parts)


def _rearrange(op: Any, product: Any, parts: Sequence[_Part]) -> None:
    count, (heads, width, _) = len(parts), parts[0]
    factors = [_take_factors(part.transpose) for part in parts]
    if any(factor != 1 for factor in factors):
        of_columns = np.repeat(factors, heads * width).astype(product.get_element_type().to_dtype())
        product = op.multiply(product, of_columns)
    apart = op.reshape(product, np.array([0, 0, count, heads, width]), special_zero=True)
    ordered = op.split(op.transpose(apart, np.array([2, 0, 3, 1, 4])), np.int64(0), count)
    for part, output in zip(parts, ordered.outputs(), strict=True):
        new = op.squeeze(output, np.array([0]))
        if _numbers(part.transpose.input_value(1)) == _TRANSPOSED:
            new = op.transpose(new, np.array([0, 1, 3, 2]))
        _replace(part.transpose, new.output(0))


def _part(output: Any) -> _Part | None:
    """The part that is this output; None if it is used in another way."""
    reshape = _only_user(output, "Reshape")
    transpose = reshape and _only_user(reshape.output(0), "Transpose")
    if not transpose or _numbers(transpose.input_value(1)) not in (_HEADS_FIRST, _TRANSPOSED):
        return None
    before, after = output.get_partial_shape(), reshape.output(0).get_partial_shape()
    if after.rank != 4 or before[2].is_dynamic or [*after][:2] != [*before][:2]:
        return None
    columns, sizes = before[2].get_length(), [size.get_length() for size in [*after][2:] if size.is_static]
    # A reshape to -1 leaves one of the two sizes open.
    if not sizes or columns % sizes[-1]:
        return None
    other = columns // sizes[-1]
    return _Part(other, sizes[-1], transpose) if after[3].is_static else _Part(sizes[-1], other, transpose)


def _take_factors(query: Any) -> float:
    """Remove the constant factors of a query and of its product with the key; returns their product.

    Args:
        query: the node that makes the query. If it makes a key or a value, nothing is removed, and the result is 1.
    """
    before, scaled = _factor(query)
    scores = _only_user(scaled.output(0), "MatMul")
    if scores is None or scores.input_value(0) != scaled.output(0):
        return 1.0
    after, weighted = _factor(scores)
    for source, last in ((query, scaled), (scores, weighted)):
        if last is not source:
            _replace(last, source.output(0))
    return before * after


def _factor(node: Any) -> tuple[float, Any]:
    """The number that multiplies the result of a node, and the node that does it; 1 and `node` if there is none."""
    multiply = _only_user(node.output(0), "Multiply")
    for value in multiply.input_values() if multiply else ():
        number = _numbers(value)
        if number is not None and np.size(number) == 1:
            return float(np.ravel(number)[0]), multiply
    return 1.0, node


def _axis(split: Any) -> int:
    """The axis of a split of a tensor with three axes; -1 for another tensor, or if it is not constant."""
    axis = _numbers(split.input_value(1))
    is_known = axis is not None and split.input_value(0).get_partial_shape().rank == 3
    return int(np.ravel(axis)[0]) % 3 if is_known else -1


def _only_user(output: Any, type_name: str) -> Any:
    """The node of this type that alone uses an output; None if there is none."""
    users = [user.get_node() for user in output.get_target_inputs()]
    return users[0] if len(users) == 1 and users[0].get_type_name() == type_name else None


def _numbers(value: Any) -> Any:
    """The numbers of a constant, as a list or a number; None for another value."""
    node = value.get_node()
    return node.data.tolist() if node.get_type_name() == "Constant" else None


def _replace(node: Any, by: Any) -> None:
    for user in node.output(0).get_target_inputs():
        user.replace_source_output(by)
