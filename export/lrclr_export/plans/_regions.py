"""Region selection from queries and keys, for plans.

The region node of a graph takes the attention maps of the layers. A GPU library cannot fuse an attention whose map is
an output, and writes the map to memory. So before a plan is built, the inputs of the node are replaced by the queries
and keys of the layers, from which its kernel computes the maps again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import AttributeProto, ModelProto, NodeProto, helper, numpy_helper

from lrclr.errors import ExportError
from lrclr_export.onnx.region_function import DOMAIN, OP_TYPE, QK_OP_TYPE, qk_function

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True)
class RegionNode:
    """Sizes of a region node over queries and keys.

    Attributes:
        layers: number of layers whose queries and keys the node takes, plus one for the start row.
        nodes: number of tokens, with CLS; None if the graph does not give it.
        head_width: width of a query; None if the graph does not give it.
        top_k: number of patches per chain.
        mean: whether heads are averaged.
        prefix: tokens before the patches.
    """

    layers: int
    nodes: int | None
    head_width: int | None
    top_k: int
    mean: bool
    prefix: int


@dataclass(frozen=True)
class _Attention:
    """Operands of an attention map: names of query and key ``[B, N, H, C]``, and the scale of their product."""

    query: str
    key: str
    scale: float


def from_queries_and_keys(model: ModelProto) -> RegionNode:
    """Replace a graph's region node by one over queries and keys.

    Its inputs are the tokens, the start row, and query and key of each layer whose map the node took, in order. The
    attribute ``scale`` is that of a product.

    Args:
        model: an image encoder as the exporter writes it; it is changed.

    Raises:
        ExportError: the graph has no region node, or a map is not the softmax of a product of a query and a key.
    """
    graph = _Graph(model)
    node = _region_node(model)
    attributes = _attributes(node)
    tokens, start, *maps = node.input
    found = [graph.attention(name) for name in maps]
    scales = {one.scale for one in found}
    if len(scales) != 1:
        raise ExportError(f"the layers of the image encoder scale their attention differently: {sorted(scales)}")
    del node.input[:]
    node.input.extend([tokens, start, *(name for one in found for name in (one.query, one.key))])
    node.op_type = QK_OP_TYPE
    node.attribute.append(helper.make_attribute("scale", scales.pop()))
    graph.insert_before(node)
    _remove_function(model, OP_TYPE)
    shape = graph.shape(found[0].query)
    return RegionNode(
        len(maps) + 1, shape[1], shape[3], attributes["top_k"], bool(attributes["mean"]), attributes["prefix"]
    )


def attentions(model: ModelProto) -> int:
    """Number of attentions of a graph with several heads, without those within functions."""
    shapes = _Graph(model)
    return sum(node.op_type == "Softmax" and shapes.shape(node.output[0])[1] != 1 for node in model.graph.node)


def with_definition(model: ModelProto) -> None:
    """Prepare the region node for a library without the plugin: add a function, and remove attributes of plugins.

    Args:
        model: an image encoder with a region node of either kind; it is changed.
    """
    node = _region_node(model, OP_TYPE, QK_OP_TYPE)
    if node.op_type == QK_OP_TYPE:
        opset = next(one.version for one in model.opset_import if not one.domain)
        attributes = _attributes(node)
        mean, prefix = bool(attributes["mean"]), attributes["prefix"]
        model.functions.append(qk_function(len(node.input) // 2 - 1, mean=mean, prefix=prefix, opset=opset))
    (function,) = [one for one in model.functions if (one.domain, one.name) == (DOMAIN, node.op_type)]
    for owner in (node, function):
        kept = [one for one in owner.attribute if _name(one) not in _OF_PLUGINS]
        del owner.attribute[:]
        owner.attribute.extend(kept)


_OF_PLUGINS = frozenset({"plugin_namespace", "plugin_version"})


def _name(attribute: AttributeProto | str) -> str:
    return attribute if isinstance(attribute, str) else attribute.name


def _region_node(model: ModelProto, *op_types: str) -> NodeProto:
    wanted = op_types or (OP_TYPE,)
    nodes = [node for node in model.graph.node if node.domain == DOMAIN and node.op_type in wanted]
    if len(nodes) != 1:
        raise ExportError(f"the image encoder has {len(nodes)} nodes {' or '.join(wanted)}, not one")
    return nodes[0]


def _remove_function(model: ModelProto, name: str) -> None:
    kept = [one for one in model.functions if (one.domain, one.name) != (DOMAIN, name)]
    del model.functions[:]
    model.functions.extend(kept)


def _attributes(node: NodeProto) -> dict[str, Any]:
    return {one.name: helper.get_attribute_value(one) for one in node.attribute}


class _Graph:
    def __init__(self, model: ModelProto) -> None:
        self._model = model
        self._makers = {name: node for node in model.graph.node for name in node.output}
        self._constants = {one.name: one for one in model.graph.initializer}
        self._added: list[NodeProto] = []

    def attention(self, name: str) -> _Attention:
        """Find the query and key of a map."""
        scale = 1.0
        node = self._maker(name, "ReduceMean", "Softmax")
        if node.op_type == "ReduceMean":
            node = self._maker(node.input[0], "Softmax")
        node = self._maker(node.input[0], "Cast", "Mul", "MatMul")
        if node.op_type == "Cast":
            node = self._maker(node.input[0], "Mul", "MatMul")
        if node.op_type == "Mul":
            scores, factor = self._scaled(node)
            scale *= factor
            node = self._maker(scores, "MatMul")
        query, key = node.input
        maker = self._makers.get(query)
        if maker is not None and maker.op_type == "Mul":
            query, factor = self._scaled(maker)
            scale *= factor
        return _Attention(self._transposed(query, (0, 2, 1, 3)), self._transposed(key, (0, 3, 1, 2)), scale)

    def shape(self, name: str) -> list[int | None]:
        """Shape of a tensor with four axes; None for an axis whose size the graph does not give."""
        for value in self._model.graph.value_info:
            if value.name == name:
                return [
                    axis.dim_value if axis.HasField("dim_value") else None for axis in value.type.tensor_type.shape.dim
                ]
        return [None] * 4

    def insert_before(self, node: NodeProto) -> None:
        """Insert the new nodes before a node."""
        place = next(number for number, one in enumerate(self._model.graph.node) if one is node or one == node)
        for one in reversed(self._added):
            self._model.graph.node.insert(place, one)

    def _maker(self, name: str, *op_types: str) -> NodeProto:
        node = self._makers.get(name)
        if node is None or node.op_type not in op_types:
            raise ExportError(
                "the image encoder's attention cannot be traced from the region node",
                why=f"{name} is made by {node.op_type if node else 'nothing'}, not by {' or '.join(op_types)}",
                fix="Export the checkpoint again.",
            )
        return node

    def _scaled(self, node: NodeProto) -> tuple[str, float]:
        """The input and the factor of a product with a constant number."""
        constants = {name: self._constant(name) for name in node.input}
        for name, other in ((node.input[0], node.input[1]), (node.input[1], node.input[0])):
            value = constants[other]
            if value is not None and value.size == 1:
                return name, float(value.reshape(()))
        raise ExportError("the image encoder scales its attention by something that is not a constant number")

    def _constant(self, name: str) -> NDArray[Any] | None:
        value = self._constants.get(name)
        node = self._makers.get(name)
        if node is not None and node.op_type == "Constant":
            value = helper.get_attribute_value(node.attribute[0])
        return None if value is None else np.asarray(numpy_helper.to_array(value))

    def _transposed(self, name: str, order: Sequence[int]) -> str:
        """The tensor with its axes in another order. Existing transpositions are removed before one is added."""
        order = tuple(order)
        while (node := self._makers.get(name)) is not None and node.op_type == "Transpose":
            inner = tuple(_attributes(node)["perm"])
            name, order = node.input[0], tuple(inner[axis] for axis in order)
        if order == tuple(range(len(order))):
            return name
        made = f"{name}_as_{''.join(map(str, order))}"
        self._added.append(helper.make_node("Transpose", [name], [made], name=made, perm=order))
        return made
