"""The plugin of the region kernel with TensorRT's Python layer: its checks and its launches."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

# Private: the plugin runs on a GPU only. Its fields and its kernel are tested here without one.
from lrclr._kernels import entry_ptx, form_for
from lrclr.errors import ExportError
from lrclr_export.plans import _region_plugin
from lrclr_export.plans._regions import RegionNode
from tests.export.plans import tensorrt_natives as natives

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.setattr(_region_plugin, "_registered", [])
    yield natives.library(monkeypatch)
    for name in [name for name in sys.modules if name.startswith("tensorrt.plugin.")]:
        del sys.modules[name]


def _plugin(tensorrt: Any, top_k: int, *, mean: bool, prefix: int = 1) -> Any:
    """The plugin that the ONNX parser makes from the node's attributes."""
    creator = tensorrt.get_plugin_registry().get_creator("RegionSelectQK", "1", "lrclr")
    numbers = {"top_k": top_k, "mean": int(mean), "prefix": prefix, "scale": 0.125}
    values = {name: np.array([number]) for name, number in numbers.items()}
    fields = [natives.PluginField(name, value) for name, value in values.items()]
    assert [one.name for one in creator.field_names] == [one.name for one in fields]
    phase, request = tensorrt.TensorRTPhase.BUILD, tensorrt.QuickPluginCreationRequest.PREFER_AOT
    return creator.create_plugin("RegionSelectQK", "lrclr", fields, phase, request)


class _Launch:
    """The launch that a plan would make."""

    def __init__(self, tensorrt: Any, plugin: Any, shapes: list[tuple[int, ...]], tokens: natives.DataType) -> None:
        types = [tokens, natives.DataType.FLOAT] + [natives.DataType.HALF] * (len(shapes) - 2)
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
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(
    ("layers", "heads", "nodes", "width", "top_k", "images", "prefix"),
    [
        (12, 12, 50, 768, 1, 32, 1),
        (24, 16, 577, 1024, 4, 32, 1),
        (13, 12, 196, 768, 1, 1, 0),
        (6, 6, 101, 192, 12, 1, 1),
        (28, 16, 1024, 1152, 12, 8, 0),
    ],
)
def test_what_is_launched(
    tensorrt: ModuleType,
    layers: int,
    heads: int,
    nodes: int,
    width: int,
    top_k: int,
    images: int,
    prefix: int,
    capability: int,
    tokens: natives.DataType,
    mean: bool,
) -> None:
    _region_plugin.register_region_plugin(tensorrt, layers, capability=capability, images=images)
    chains = 1 if mean else heads
    head_width = width // heads
    pairs = [(5, nodes, heads, head_width)] * (2 * (layers - 1))
    # With the mean, the graph has averaged the start row before.
    shapes = [(5, nodes, width), (5, chains, 1, nodes), *pairs]
    launch = _Launch(tensorrt, _plugin(tensorrt, top_k, mean=mean, prefix=prefix), shapes, tokens)
    regions = chains * top_k
    assert launch.shapes == [(5, regions + prefix, width), (5, regions), (5, regions)]
    assert launch.types == [tokens, natives.DataType.INT64, natives.DataType.FLOAT]
    form = form_for(nodes, chains * images, capability, head_width)
    grid = (launch.size("grid_x"), launch.size("grid_y"), launch.size("grid_z"))
    assert grid == (chains * form.blocks, 5, 1)
    assert (launch.size("block_x"), launch.size("shared_mem")) == (form.threads(nodes), 0)
    row_bytes = width * (2 if tokens is natives.DataType.HALF else 4)
    scale = int(np.array(0.125, np.float32).view(np.int32))
    wanted = [heads, int(mean), nodes, prefix, top_k, row_bytes, width, scale]
    assert launch.scalars.values_in_order() == wanted
    # Inputs, scalars, outputs: the kernel has its arguments in the order in which TensorRT passes them.
    assert launch.ptx == entry_ptx(form.entry(layers), capability)
    taken = _parameters(launch.ptx.decode(), launch.kernel)
    assert taken == [".u64"] * (2 * layers) + [".u32"] * 8 + [".u64"] * 3


def test_a_size_that_is_not_fixed(tensorrt: ModuleType) -> None:
    _region_plugin.register_region_plugin(tensorrt, 2, capability=80, images=1)
    shapes = [(5, -1, 64), (5, 2, 1, -1), (5, -1, 2, 64), (5, -1, 2, 64)]
    with pytest.raises(Exception, match="needs fixed sizes"):
        _Launch(tensorrt, _plugin(tensorrt, 1, mean=False), shapes, natives.DataType.HALF)


def _parameters(ptx: str, kernel: str) -> list[str]:
    """Types of the parameters of a kernel."""
    match = re.search(rf"\.entry {kernel}\((.*?)\)", ptx, re.DOTALL)
    assert match is not None, kernel
    return re.findall(r"\.param (?:\.\w+ )*?(\.[us]\d+)", match[1])


def test_a_process_builds_one_kind(tensorrt: ModuleType) -> None:
    for _ in range(2):
        _region_plugin.register_region_plugin(tensorrt, 2, capability=80, images=1)
    with pytest.raises(ExportError, match="already registered for 2 layers"):
        _region_plugin.register_region_plugin(tensorrt, 3, capability=80, images=1)


def test_networks_without_a_kernel() -> None:
    known = RegionNode(layers=12, nodes=50, head_width=64, top_k=1, mean=False, prefix=1)
    assert _region_plugin.has_kernel(known)
    assert _region_plugin.has_kernel(replace(known, head_width=32))
    assert _region_plugin.has_kernel(replace(known, head_width=72, layers=28, nodes=1024))
    for changed in (
        {"layers": 14},
        {"nodes": 2000},
        {"nodes": None},
        {"head_width": 40},
        {"head_width": 72},
        {"top_k": 65},
    ):
        assert not _region_plugin.has_kernel(replace(known, **changed))
