"""The region kernel's plugin, as far as TensorRT's Python layer goes: what it checks, and what it is told to launch."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from lrclr._kernels import LAYERS, region_ptx, threads_of
from lrclr.errors import ExportError
from lrclr_export.plans import _region_plugin
from tests.export.plans import tensorrt_natives as natives

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.setattr(_region_plugin, "_registered", set())
    yield natives.library(monkeypatch)
    for name in [name for name in sys.modules if name.startswith("tensorrt.plugin.")]:
        del sys.modules[name]


def _plugin(tensorrt: Any, top_k: int, *, mean: bool) -> Any:
    """As the ONNX parser makes one: from the node's attributes."""
    creator = tensorrt.get_plugin_registry().get_creator("RegionSelect", "1", "lrclr")
    fields = [natives.PluginField("top_k", np.array([top_k])), natives.PluginField("mean", np.array([int(mean)]))]
    assert [one.name for one in creator.field_names] == [one.name for one in fields]
    phase, request = tensorrt.TensorRTPhase.BUILD, tensorrt.QuickPluginCreationRequest.PREFER_AOT
    return creator.create_plugin("RegionSelect", "lrclr", fields, phase, request)


class _Launch:
    """What a plan would launch."""

    def __init__(self, tensorrt: Any, plugin: Any, shapes: list[tuple[int, ...]], tokens: natives.DataType) -> None:
        types = [tokens] + [natives.DataType.FLOAT] * (len(shapes) - 1)
        self.types = plugin.get_output_data_types(types, [len(shape) for shape in shapes])
        sizes = [[natives.IDimensionExpr(size) for size in shape] for shape in shapes]
        builder = natives.ExprBuilder()
        self.shapes = [
            tuple(size.get_constant_value() for size in shape) for shape in plugin.get_output_shapes(sizes, [], builder)
        ]
        described = [
            natives.DynamicPluginTensorDesc(natives.PluginTensorDesc(natives.Dims(shape), type_))
            for shape, type_ in zip([*shapes, *self.shapes], [*types, *self.types], strict=True)
        ]
        plugin.set_tactic(0)
        self.scalars = _Scalars()
        self.grid = type("Grid", (), {})()
        plugin.get_launch_params(sizes, described, len(shapes), self.grid, self.scalars, builder)
        self.kernel, self.ptx = plugin.get_kernel(
            [one.desc for one in described[: len(shapes)]], [one.desc for one in described[len(shapes) :]]
        )

    def size(self, name: str) -> int:
        return int(getattr(self.grid, name).expr.get_constant_value())


class _Scalars(dict[int, Any]):
    nbSymExprs = 0

    def values_in_order(self) -> list[int]:
        return [self[place].expr.get_constant_value() for place in range(self.nbSymExprs)]


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("tokens", [natives.DataType.FLOAT, natives.DataType.HALF])
@pytest.mark.parametrize(("layers", "heads", "nodes", "width", "top_k"), [(12, 12, 50, 768, 1), (24, 16, 577, 1024, 4)])
def test_what_is_launched(
    tensorrt: ModuleType,
    layers: int,
    heads: int,
    nodes: int,
    width: int,
    top_k: int,
    tokens: natives.DataType,
    mean: bool,
) -> None:
    _region_plugin.register_region_plugin(tensorrt, layers)
    # Over the mean, the graph has averaged the heads before.
    heads = 1 if mean else heads
    maps = [(5, heads, nodes, nodes)] * (layers - 1) + [(5, heads, 1, nodes)]
    launch = _Launch(tensorrt, _plugin(tensorrt, top_k, mean=mean), [(5, nodes, width), *maps], tokens)
    regions = heads * top_k
    assert launch.shapes == [(5, regions + 1, width), (5, regions), (5, regions)]
    assert launch.types == [tokens, natives.DataType.INT64, natives.DataType.FLOAT]
    assert (launch.size("grid_x"), launch.size("grid_y"), launch.size("grid_z")) == (heads, 5, 1)
    assert (launch.size("block_x"), launch.size("shared_mem")) == (threads_of(nodes), 0)
    row_bytes = width * (2 if tokens is natives.DataType.HALF else 4)
    assert launch.scalars.values_in_order() == [heads, int(mean), nodes, 1, top_k, row_bytes]
    # Inputs, scalars, outputs: the order in which TensorRT passes them is the kernel's own.
    assert launch.ptx == region_ptx()
    taken = _parameters(launch.ptx.decode(), launch.kernel)
    assert taken == [".u64"] * (1 + layers) + [".u32"] * 6 + [".u64"] * 3


def _parameters(ptx: str, kernel: str) -> list[str]:
    """Types of a kernel's parameters."""
    match = re.search(rf"\.entry {kernel}\((.*?)\)", ptx, re.DOTALL)
    assert match is not None, kernel
    return re.findall(r"\.param (?:\.\w+ )*?(\.[us]\d+)", match[1])


def test_depths_without_a_kernel(tensorrt: ModuleType) -> None:
    with pytest.raises(ExportError, match="no region kernel for 13 layers"):
        _region_plugin.register_region_plugin(tensorrt, 13)
    _region_plugin.register_region_plugin(tensorrt, LAYERS[0])
    _region_plugin.register_region_plugin(tensorrt, LAYERS[0])
    with pytest.raises(ExportError, match="registered for"):
        _region_plugin.register_region_plugin(tensorrt, LAYERS[1])
