"""A network is traced once, and a second time only for operators that need it. Both give PyTorch's numbers."""

from __future__ import annotations

import contextlib
import gc
import weakref
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.onnx._internal.exporter._registration import ONNXRegistry

from lrclr.checkpoints import init_checkpoint
from lrclr_export.onnx import onnx_graph
from lrclr_export.onnx.graphs import GraphSpec, graph_specs
from lrclr_export.onnx.onnx_graph import typed_onnx_from_module

if TYPE_CHECKING:
    from collections.abc import Callable


class Small(nn.Module):
    """A module of one function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def changed_in_place(x: Tensor) -> Tensor:
    total = x + 1
    total.mul_(x)
    return total


@pytest.fixture
def second_traces(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Gets an element whenever the exporter traces again."""
    found: list[object] = []
    again = torch.export.ExportedProgram.run_decompositions

    def recorded(program: torch.export.ExportedProgram, table: object) -> object:
        found.append(table)
        return again(program, table)

    monkeypatch.setattr(torch.export.ExportedProgram, "run_decompositions", recorded)
    return found


@pytest.mark.parametrize(
    ("function", "twice"),
    [
        (lambda x: x.half().reshape(x.shape[0], -1).float() * 2, False),
        (lambda x: torch.movedim(x, 1, 2).square(), True),  # operators that ONNX does not have
        (changed_in_place, True),
    ],
    ids=["translated", "not translated", "in place"],
)
def test_a_module_gives_pytorchs_numbers(
    function: Callable[[Tensor], Tensor], twice: bool, second_traces: list[object]
) -> None:
    x = torch.arange(24.0).reshape(2, 3, 4)
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    spec = GraphSpec("small", Small(function), {"x": x}, {"x": batch}, ("y",))
    graph = typed_onnx_from_module(spec, opset=20)
    session = onnxruntime.InferenceSession(ir.to_proto(graph.model).SerializeToString())
    for rows in (1, 2, 5):
        given = torch.arange(12.0 * rows).reshape(rows, 3, 4)
        (found,) = session.run(None, {"x": given.numpy()})
        np.testing.assert_allclose(found, function(given).numpy(), rtol=1e-6)
    assert bool(second_traces) == twice


@pytest.mark.slow
def test_the_fusion_head_is_traced_once_and_freed(second_traces: list[object]) -> None:
    """Rules of onnxscript keep the last graph, with the weights of the whole network, unless they are reset."""
    model = init_checkpoint("tiny").model
    weight = weakref.ref(model.fusion_head.image_projection.weight)
    graph = typed_onnx_from_module(graph_specs(model)[-1], opset=20)
    assert second_traces == []
    del model, graph
    gc.collect()
    assert weight() is None


def test_translations_are_read_once_and_the_exporter_is_left_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    read = ONNXRegistry.from_torchlib

    def recorded(opset_version: int) -> ONNXRegistry:
        reads.append(opset_version)
        return read(opset_version)

    monkeypatch.setattr(ONNXRegistry, "from_torchlib", staticmethod(recorded))
    before = vars(ONNXRegistry)["from_torchlib"]
    spec = GraphSpec("small", Small(torch.square), {"x": torch.ones(2, 3)}, {}, ("y",))
    first, second = (ir.to_proto(typed_onnx_from_module(spec, opset=20).model) for _ in range(2))
    assert first.SerializeToString() == second.SerializeToString()
    assert reads == []
    assert vars(ONNXRegistry)["from_torchlib"] is before


@pytest.mark.slow
def test_torchs_cache_of_shapes_changes_no_byte_of_the_fusion_head(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = graph_specs(init_checkpoint("tiny").model)[-1]
    without = ir.to_proto(typed_onnx_from_module(spec, opset=20).model).SerializeToString()
    kept_by_torch = SimpleNamespace(patch=lambda **_: contextlib.nullcontext())
    monkeypatch.setattr(onnx_graph, "tracing_config", kept_by_torch)
    assert ir.to_proto(typed_onnx_from_module(spec, opset=20).model).SerializeToString() == without
