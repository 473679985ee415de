"""The region kernel as a plugin of full TensorRT: its PTX goes into the plan, which needs neither Python nor lrclr.

It is a quickly deployable plugin with an ahead-of-time implementation. The node ``lrclr::RegionSelect`` is mapped to it
by the attribute ``plugin_namespace``. Arguments of the kernel: inputs, int32 scalars, outputs.
"""

from __future__ import annotations

import inspect
from typing import Any

from lrclr._kernels import LAYERS, region_ptx, threads_of
from lrclr.errors import ExportError

PLUGIN = "lrclr::RegionSelect"
_registered: set[int] = set()


def register_region_plugin(library: Any, layers: int) -> None:
    """Make TensorRT know the plugin for networks of so many layers. A process knows one number of them.

    Args:
        library: the module ``tensorrt``.
        layers: attention maps that the node takes.

    Raises:
        ExportError: there is no kernel for so many layers, or another number of them was registered.
    """
    if layers in _registered:
        return
    if layers not in LAYERS:
        known = ", ".join(map(str, LAYERS))
        raise ExportError(f"there is no region kernel for {layers} layers", why=f"it is compiled for {known}")
    if _registered:
        raise ExportError(
            f"the region kernel is registered for {_registered} layers already",
            fix="Build a bundle of another depth in a process of its own.",
        )
    import tensorrt.plugin as qdp

    tensors = ["tokens", *(f"map_{layer}" for layer in range(layers))]
    described = [_parameter(name, qdp.TensorDesc) for name in tensors]
    # The parser passes on every attribute of the node that is not its own.
    attributes = [_parameter("top_k", int), _parameter("mean", int)]
    outputs = tuple[qdp.TensorDesc, qdp.TensorDesc, qdp.TensorDesc]

    def describe(*given: Any, **named: Any) -> Any:
        values = describe.__signature__.bind(*given, **named).arguments  # type: ignore[attr-defined]
        # Sizes are expressions here: TensorRT asks before it knows any.
        batch, heads = values["tokens"].shape_expr[0], values["map_0"].shape_expr[1]
        regions = values["top_k"] if values["mean"] else heads * values["top_k"]
        picked = values["tokens"].like()
        picked.shape_expr[1] = regions + 1
        index = qdp.from_shape_expr((batch, regions), dtype=library.int64)
        importance = qdp.from_shape_expr((batch, regions), dtype=library.float32)
        return picked, index, importance

    describe.__signature__ = inspect.Signature([*described, *attributes], return_annotation=outputs)  # type: ignore[attr-defined]

    def implement(*given: Any, **named: Any) -> Any:
        values = implement.__signature__.bind(*given, **named).arguments  # type: ignore[attr-defined]
        tokens, last, heads = values["tokens"], values[f"map_{layers - 1}"], values["map_0"].shape[1]
        nodes, width = tokens.shape[1], tokens.shape[2]
        bytes_each = {library.float32: 4, library.float16: 2, library.bfloat16: 2}[tokens.dtype]
        scalars = (heads, values["mean"], nodes, last.shape[2], values["top_k"], width * bytes_each)
        launch = qdp.KernelLaunchParams()
        launch.grid_x, launch.grid_y = (1 if values["mean"] else heads), tokens.shape_expr[0]
        launch.block_x = threads_of(nodes)
        launch.shared_mem = 0
        extra = qdp.SymIntExprs(len(scalars))
        for place, scalar in enumerate(scalars):
            extra[place] = qdp.SymInt32(scalar)
        return f"region_select_{layers}", region_ptx(), launch, extra

    made = [_parameter("outputs", outputs), _parameter("tactic", int)]
    returned = tuple[str | bytes, str | bytes, qdp.KernelLaunchParams, qdp.SymExprs]
    implement.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [*described, *attributes, *made], return_annotation=returned
    )
    qdp.register(PLUGIN)(describe)
    qdp.aot_impl(PLUGIN)(implement)
    _registered.add(layers)


def _parameter(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=annotation)
