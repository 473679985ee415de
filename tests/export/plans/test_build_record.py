"""What the builder reports about a plan: from a real build, and from logs of TensorRT 10, which cannot run here."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from lrclr import Bundle
from lrclr.errors import GateError
from lrclr_export import BuildOptions, build_bundle
from lrclr_export.plans import BuildRecord, plan_from_onnx
from lrclr_export.profiles import profiles_of_graph
from lrclr_export.repository import build as build_module

# Private: the gate on types is also tested on records that the builder does not give.
from lrclr_export.repository.build import _written_gates
from tests import bundles

if TYPE_CHECKING:
    from pathlib import Path

AMPERE = BuildOptions("tensorrt-rtx", ("8.6",))
# A log of TensorRT 10 with a plugin between two parts that its compiler made, for two profiles.
TENSORRT_10 = """Layers:
Name: Reformatting CopyNode for Input Tensor 0 to {ForeignNode[a...b]}, LayerType: Reformat, Inputs: [ { Name: x, \
Location: Device, Dimensions: [1,3,8,8], Format/Datatype: Row major linear FP32 }], Outputs: [ { Name: y, Location: \
Device, Dimensions: [1,3,8,8], Format/Datatype: Row major linear FP16 format }], ParameterType: Reformat, TacticName: \
, StreamId: 0, Metadata:
Name: a_myl0_0, LayerType: gemm, Inputs: [ { Name: y, Dimensions: [1,3,8,8], Format/Datatype: Half }, { Name: w, \
Dimensions: [8,8], Format/Datatype: Half }], Outputs: [ { Name: z, Dimensions: [1,3,8,8], Format/Datatype: Half }], \
TacticName: sm80_xmma, StreamId: 0, Metadata: [ONNX Layer: mha_in_a_name]
Name: k_myl0_1, LayerType: kgen, Inputs: [ { Name: z, Dimensions: [1,3,8,8], Format/Datatype: Half }], Outputs: [ \
{ Name: u, Dimensions: [1,3,8,8], Format/Datatype: N/A due to dynamic shapes }], TacticName: _gemm_mha_v2_0x1, \
StreamId: 0, Metadata:
Name: RegionSelect, LayerType: PluginV3, Inputs: [ { Name: u, Dimensions: [1,3,8,8], Format/Datatype: Half }], \
Outputs: [ { Name: v, Dimensions: [1,8], Format/Datatype: Row major linear INT64 format }], TacticName: , \
StreamId: 0, Metadata:
Name: b_myl1_0, LayerType: shape_call, Inputs: [], Outputs: [], TacticName: , StreamId: 0, Metadata:
Name: b_myl1_1, LayerType: gemm, Inputs: [ { Name: y [profile 1], Dimensions: [-1,3], Format/Datatype: Float }], \
Outputs: [ { Name: q, Dimensions: [-1,3], Format/Datatype: Float }], TacticName: , StreamId: 0, Metadata:
Name: b_myl1_2, LayerType: kgen, Inputs: [ { Name: q, Dimensions: [-1,3], Format/Datatype: Int8 }], Outputs: [], \
TacticName: , StreamId: 0, Metadata:

I/O Tensors:
 Name: x, IOMode: Input, DataType: Float, Dimensions: [-1,3,112,112], Location: Device
"""


@pytest.fixture(scope="module")
def record(fp16_bundle: Path) -> BuildRecord:
    """The record of the tiny image encoder from the real builder."""
    return _built(Bundle(fp16_bundle), "image_encoder")


def _built(opened: Bundle, graph: str) -> BuildRecord:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is for x86-64 Linux")
    shapes = {name: tensor["shape"] for name, tensor in opened.manifest.graphs[graph]["inputs"].items()}
    sizes = profiles_of_graph(shapes, opened.manifest.profiles)
    return plan_from_onnx(opened.graph_path(graph), AMPERE, name=graph, profiles=sizes).record


def test_a_real_build(record: BuildRecord) -> None:
    assert "unknown" not in record.written_types
    assert record.written_types["float16"] > record.written_types["float32"] > 0
    one, several = record.to_dict()["profiles"]
    # Each profile has its own layers. The library decides their number.
    for profile in (one, several):
        assert profile["launches"] > 20
        # Region selection multiplies in float32, once less than its chain has layers.
        assert profile["products"]["float32"] == 2
        assert profile["products"]["float16"] > 10
    # All maps but that of the last block are outputs for region selection, so attention is not fused.
    assert (one["fused_attention"], several["fused_attention"]) == (1, 1)
    assert several["activation_bytes"] > one["activation_bytes"] > 100_000


def test_names_of_layers_are_the_builders(record: BuildRecord) -> None:
    names = [layer.name for layer in record.layers]
    assert len(names) == len(set(names))
    assert sum(re.search(r"node_Conv", name) is not None for name in names) == 2
    kinds = {layer.kind for layer in record.layers}
    assert {"gemm", "kgen"} <= kinds
    assert not any("{" in kind or "," in kind for kind in kinds)


@pytest.mark.parametrize("graph", ["image_encoder", "text_encoder"])
def test_a_real_build_in_int8(int8_bundle: Path, graph: str) -> None:
    opened = Bundle(int8_bundle)
    record = _built(opened, graph)
    assert record.written_types["int8"] > 0
    assert "float16" not in record.written_types
    wanted = sum(kind.get("int8", 0) for kind in opened.manifest.graphs[graph]["precision_histogram"].values())
    for profile in record.to_dict()["profiles"]:
        # Products of one input are combined into one.
        assert 0 < profile["products"]["int8"] <= wanted


def test_a_log_of_tensorrt_10() -> None:
    messages = ["Graph optimization time: 0.1 seconds.", "Total Activation Memory: 4096 bytes"]
    record = BuildRecord.of_log([*messages, "Total Activation Memory: 8192 bytes", TENSORRT_10])
    assert record.to_dict() == {
        "layers_write": {"float16": 2, "float32": 1, "int64": 1, "unknown": 1},
        "profiles": [
            {"launches": 4, "fused_attention": 1, "products": {"float16": 2}, "activation_bytes": 4096},
            {"launches": 2, "fused_attention": 0, "products": {"float32": 1}, "activation_bytes": 8192},
        ],
    }
    assert record.layers[0].name == "Reformatting CopyNode for Input Tensor 0 to {ForeignNode[a...b]}"
    assert record.layers[-1].inputs == ("int8",)


@pytest.mark.parametrize("text", ["Layers:\nconv\nsoftmax", "Layers:", "Layers:\nName: x, LayerType: gemm", "", "x"])
def test_a_builder_that_says_less(text: str) -> None:
    assert BuildRecord.of_log([text]) == BuildRecord()
    assert BuildRecord().to_dict() == {"layers_write": {}, "profiles": []}


@pytest.mark.parametrize(
    ("precision", "inspector", "log", "source", "passed"),
    [
        ("fp16", {"float16": 3, "float32": 1}, {}, "inspector", True),
        ("fp16", {"float32": 4}, {"float16": 9}, "inspector", False),
        ("fp16", {"unknown": 4}, {"float16": 3}, "log", True),
        ("fp16", {"unknown": 4, "float32": 1}, {"float16": 3}, "log", True),
        ("fp16", {"unknown": 4, "float32": 1}, {"float32": 3}, "log", False),
        ("fp16", {"unknown": 1, "float16": 1}, {"float16": 1, "unknown": 3}, "inspector", True),
        ("fp32", {"unknown": 1, "float16": 1}, {}, "inspector", False),
        ("fp16", {"unknown": 4}, {"float32": 3}, "log", False),
        ("fp32", {"float32": 4}, {}, "inspector", True),
        ("fp32", {"unknown": 1}, {"float16": 1, "float32": 4}, "log", False),
        ("int8", {"int8": 4, "float32": 4}, {}, "inspector", True),
        ("int8", {"unknown": 2}, {"float32": 4}, "log", False),
    ],
)
def test_the_precision_of_a_finished_plan(
    precision: str, inspector: dict[str, int], log: dict[str, int], source: str, *, passed: bool
) -> None:
    entry: dict[str, Any] = {}
    gates = _written_gates("text_encoder", {"inspector": inspector, "log": log}, entry, precision, 5)
    assert entry == {"layers_write": {"inspector": inspector, "log": log}[source], "layer_types_from": source}
    assert all(gate.passed for gate in gates) is passed
    assert all(source in gate.subject for gate in gates)


@pytest.mark.parametrize("precision", ["fp16", "fp32", "int8"])
@pytest.mark.parametrize("given", [{}, {"inspector": {"unknown": 7}, "log": {}}, {"inspector": {}, "log": {}}])
def test_unknown_types_are_no_evidence(given: dict[str, dict[str, int]], precision: str) -> None:
    entry: dict[str, Any] = {}
    assert _written_gates("text_encoder", given, entry, precision, 1) == []
    assert entry == {"layers_write": {}, "layer_types_from": None}


def test_a_missing_type_may_be_among_the_unknown() -> None:
    entry: dict[str, Any] = {}
    given = {"inspector": {"float32": 3, "unknown": 9}, "log": {}}
    assert _written_gates("text_encoder", given, entry, "fp16", 0) == []
    assert entry == {"layers_write": given["inspector"], "layer_types_from": None}


@pytest.mark.slow
def test_a_plan_that_was_built_in_another_type_is_refused(
    fp32_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FP16 is requested, but the builder reports FP32. The other gates on a plan are left out here."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is for x86-64 Linux")
    folder = bundles.signed(bundles.copied(fp32_bundle, tmp_path / "bundle"), precision="fp16")
    for gates in ("precision_gates", "_fusion_gates"):
        monkeypatch.setattr(build_module, gates, lambda *_, **__: [])
    with pytest.raises(GateError, match="layers that write half precision"):
        build_bundle(folder, AMPERE)
