"""The region kernel as a plugin of full TensorRT. The plan contains its PTX, and needs neither Python nor lrclr.

It is a quickly deployable plugin with an ahead-of-time implementation. The attribute ``plugin_namespace`` maps the node
``lrclr::RegionSelectQK`` to it. Arguments of the kernel: inputs, int32 scalars, outputs.
"""

from __future__ import annotations

import inspect
import struct
from typing import TYPE_CHECKING, Any

from lrclr._kernels import LAYERS, MAX_TOP_K, entry_ptx, form_for, max_nodes
from lrclr.errors import ExportError
from lrclr_export.onnx.region_function import DOMAIN, QK_OP_TYPE

if TYPE_CHECKING:
    from lrclr_export.plans._regions import RegionNode

PLUGIN = f"{DOMAIN}::{QK_OP_TYPE}"
_registered: list[tuple[int, int, int]] = []


def has_kernel(node: RegionNode) -> bool:
    """Whether there is a kernel for the sizes of a node."""
    return (
        node.head_width is not None
        and node.layers in LAYERS.get(node.head_width, ())
        and node.nodes is not None
        and node.nodes <= max_nodes(node.head_width)
        and node.top_k <= MAX_TOP_K
    )


def register_region_plugin(library: Any, layers: int, *, capability: int, images: int) -> None:
    """Register the plugin for a number of layers. A process can register only one such plugin.

    Args:
        library: the module ``tensorrt``.
        layers: number of layers of the image encoder, with the last one.
        capability: compute capability of the plan's GPU, such as 80 or 90.
        images: number of images of a request for which the plan is optimised.

    Raises:
        ExportError: another plugin was registered.
    """
    kind = (layers, capability, images)
    if kind in _registered:
        return
    if _registered:
        raise ExportError(
            f"the region kernel is already registered for {_registered[0][0]} layers",
            fix="Build a bundle of another depth, or for another GPU, in another process.",
        )
    import tensorrt.plugin as qdp

    pairs = [f"{part}_{layer}" for layer in range(layers - 1) for part in ("query", "key")]
    described = [_parameter(name, qdp.TensorDesc) for name in ("tokens", "start", *pairs)]
    # The parser passes the attributes of the node to the plugin.
    attributes = [_parameter(name, int) for name in ("top_k", "mean", "prefix")] + [_parameter("scale", float)]
    outputs = tuple[qdp.TensorDesc, qdp.TensorDesc, qdp.TensorDesc]

    def describe(*given: Any, **named: Any) -> Any:
        values = describe.__signature__.bind(*given, **named).arguments  # type: ignore[attr-defined]
        # Sizes are expressions here, since TensorRT calls this before it knows them.
        batch, heads = values["tokens"].shape_expr[0], values["query_0"].shape_expr[2]
        regions = values["top_k"] if values["mean"] else heads * values["top_k"]
        picked = values["tokens"].like()
        picked.shape_expr[1] = regions + values["prefix"]
        index = qdp.from_shape_expr((batch, regions), dtype=library.int64)
        importance = qdp.from_shape_expr((batch, regions), dtype=library.float32)
        return picked, index, importance

    describe.__signature__ = inspect.Signature([*described, *attributes], return_annotation=outputs)  # type: ignore[attr-defined]

    def implement(*given: Any, **named: Any) -> Any:
        values = implement.__signature__.bind(*given, **named).arguments  # type: ignore[attr-defined]
        tokens, query, mean = values["tokens"], values["query_0"], values["mean"]
        nodes, width, heads, head_width = tokens.shape[1], tokens.shape[2], query.shape[2], query.shape[3]
        if min(nodes, width, heads, head_width) < 0:
            raise ExportError(
                f"the region kernel needs fixed sizes, and TensorRT gives {nodes} tokens of {width} and {heads} heads "
                f"of {head_width}",
                fix="Report this with the version of TensorRT.",
            )
        bytes_each = {library.float32: 4, library.float16: 2, library.bfloat16: 2}[tokens.dtype]
        # The bits of the scale, since a kernel has only scalars of int32.
        (scale,) = struct.unpack("i", struct.pack("f", values["scale"]))
        row_bytes, stride = width * bytes_each, heads * head_width
        scalars = (heads, mean, nodes, values["prefix"], values["top_k"], row_bytes, stride, scale)
        chains = 1 if mean else heads
        form = form_for(nodes, chains * images, capability, head_width)
        launch = qdp.KernelLaunchParams()
        launch.grid_x, launch.grid_y = chains * form.blocks, tokens.shape_expr[0]
        launch.block_x = form.threads(nodes)
        launch.shared_mem = 0
        extra = qdp.SymIntExprs(len(scalars))
        for place, scalar in enumerate(scalars):
            extra[place] = qdp.SymInt32(scalar)
        entry = form.entry(layers)
        return entry, entry_ptx(entry, capability), launch, extra

    made = [_parameter("outputs", outputs), _parameter("tactic", int)]
    returned = tuple[str | bytes, str | bytes, qdp.KernelLaunchParams, qdp.SymExprs]
    implement.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [*described, *attributes, *made], return_annotation=returned
    )
    qdp.register(PLUGIN)(describe)
    qdp.aot_impl(PLUGIN)(implement)
    _registered.append(kind)


def _parameter(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=annotation)
