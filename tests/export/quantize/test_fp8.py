"""FP8: what the graphs hold, which faults of their scales are refused, and which engines take them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from torch import nn

from lrclr import Bundle, load_checkpoint
from lrclr.auto import open_engine, open_model
from lrclr.bundle import GRAPHS
from lrclr.engines import EngineOptions
from lrclr.errors import UsageError
from lrclr.verification import Tolerances, verify
from lrclr_export import BuildOptions, ExportOptions, build_bundle, export_bundle
from lrclr_export.onnx.graphs import graph_specs
from lrclr_export.onnx.precision import half_precision, precision_gate, rounding_gates
from lrclr_export.quantize import Fp8Linear, carried_calibration, quantized, scale_gate

# Private: the rounding is compared with ONNX Runtime's, for any number.
from lrclr_export.quantize._float8 import LARGEST_FP8, rounded, scale_for
from tests import bundles
from tests.kept_exports import kept_export

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lrclr.checkpoints import Checkpoint
    from lrclr.model import LrclrModel
    from lrclr_export.onnx.onnx_graph import TypedGraph

# Weights that the graphs have: query, key and value of a layer share one; in the last image layer, key and value do.
WEIGHTS = {"image_encoder": 13, "text_encoder": 8, "fusion_head": 0}
# In the last image layer, queries are computed twice: for the start row, and for the selected patches.
PRODUCTS = {"image_encoder": 14, "text_encoder": 8}
LAYERS = {"image_encoder": 18, "text_encoder": 12, "fusion_head": 0}


@pytest.fixture(scope="module")
def network(checkpoint: Checkpoint) -> LrclrModel:
    limits = Tolerances.for_precision("fp8")
    calibration = carried_calibration(checkpoint.preprocess)
    made = quantized(checkpoint, calibration, limits, precision="fp8", search_layers=False)
    assert {graph: made.record["graphs"][graph]["fp8_layers"] for graph in GRAPHS} == LAYERS
    return half_precision(made.model)


@pytest.fixture(scope="module")
def graphs(network: LrclrModel) -> dict[str, TypedGraph]:
    return {spec.name: kept_export(spec, opset=20) for spec in graph_specs(network)[:2]}


def _pairs(model: onnx.ModelProto) -> tuple[list[Any], list[tuple[Any, Any]]]:
    """The nodes that dequantise weights, and the pairs that round an input."""
    stored = {tensor.name for tensor in model.graph.initializer}
    makers = {output: node for node in model.graph.node for output in node.output}
    nodes = [node for node in model.graph.node if node.op_type == "DequantizeLinear"]
    of_weights = [node for node in nodes if node.input[0] in stored]
    return of_weights, [(makers[node.input[0]], node) for node in nodes if node.input[0] not in stored]


@pytest.mark.parametrize("graph", ["image_encoder", "text_encoder"])
def test_what_tensorrt_needs(graphs: dict[str, TypedGraph], graph: str) -> None:
    """Counted in the graph: E4M3, one scale in float16 for each tensor, which its largest number almost fills."""
    model = ir.to_proto(graphs[graph].model)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    of_weights, pairs = _pairs(model)
    assert len(of_weights) == WEIGHTS[graph]
    for node in [*of_weights, *(each for pair in pairs for each in pair)]:
        scale, zero = (constants[name] for name in node.input[1:])
        assert (scale.data_type, list(scale.dims)) == (onnx.TensorProto.FLOAT16, [])
        assert (zero.data_type, list(zero.dims)) == (onnx.TensorProto.FLOAT8E4M3FN, [])
        assert not numpy_helper.to_array(zero).astype(np.float32).any()
    for node in of_weights:
        weight = constants[node.input[0]]
        assert weight.data_type == onnx.TensorProto.FLOAT8E4M3FN
        # Of weights that share a scale, the largest one is at the end of the range.
        assert LARGEST_FP8 / 2 < np.abs(numpy_helper.to_array(weight).astype(np.float32)).max() <= LARGEST_FP8
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert all(constants[node.input[1]].data_type == onnx.TensorProto.FLOAT16 for node in convolutions)


def test_a_bundle_passes_its_gates_and_says_that_a_cpu_only_emulates(fp8_bundle: Path) -> None:
    bundle = Bundle(fp8_bundle)
    assert bundle.manifest.precision == "fp8"
    report = verify(bundle, open_engine(bundle, EngineOptions(emulate=True)))
    assert report.passed
    assert any("has no products in FP8" in note for note in report.notes)
    assert "fp8, calibrated on 64 images (carried)" in (fp8_bundle / "README.md").read_text()
    for graph, layers in LAYERS.items():
        histogram = bundle.manifest.graphs[graph]["precision_histogram"]
        assert histogram.get("layers", {}).get("float8", 0) <= layers
        gates = precision_gate(graph, histogram, "fp8", quantised_layers=layers + 1)
        assert [gate.gate for gate in gates if not gate.passed] == ["layers in fp8"]


def _changed(place: str, factor: float) -> Callable[[onnx.ModelProto], None]:
    """Multiply a scale of the third product by a factor."""

    def change(model: onnx.ModelProto) -> None:
        of_weights, pairs = _pairs(model)
        nodes = {"weight": [of_weights[2]], "rounding": [pairs[2][0]], "rounded": [pairs[2][1]], "input": pairs[2]}
        values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        for number, node in enumerate(nodes[place]):
            _replace_scale(model, node, values[node.input[1]] * np.float16(factor), f"fault_{number}")

    return change


def _exchanged(place: str) -> Callable[[onnx.ModelProto], None]:
    """Exchange the scales of the second and the third product."""

    def change(model: onnx.ModelProto) -> None:
        of_weights, pairs = _pairs(model)
        nodes = [[node] for node in of_weights] if place == "weight" else [list(pair) for pair in pairs]
        values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        one, other = (values[nodes[number][0].input[1]] for number in (1, 2))
        assert one != other
        for number, scale in ((1, other), (2, one)):
            for node in nodes[number]:
                _replace_scale(model, node, scale, f"fault_{number}_{node.op_type}")

    return change


def _replace_scale(model: onnx.ModelProto, node: Any, scale: Any, name: str) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(scale, np.float16), name))
    node.input[1] = name


@pytest.mark.parametrize("graph", ["image_encoder", "text_encoder"])
@pytest.mark.parametrize(
    "fault",
    [
        *(_changed(place, factor) for place in ("weight", "rounding", "rounded", "input") for factor in (0.5, 2, 1.25)),
        *(_exchanged(place) for place in ("weight", "input")),
    ],
)
def test_a_wrong_scale_is_refused(
    graphs: dict[str, TypedGraph], network: LrclrModel, graph: str, fault: Callable[[onnx.ModelProto], None]
) -> None:
    typed = graphs[graph]
    assert scale_gate(graph, typed.model.graph, network).passed
    model = ir.to_proto(typed.model)
    fault(model)
    found = scale_gate(graph, ir.from_proto(model).graph, network)
    assert not found.passed
    assert found.note == f"{PRODUCTS[graph]} products"


def test_a_wrong_weight_is_refused(checkpoint: Checkpoint, network: LrclrModel) -> None:
    assert all(gate.passed for gate in rounding_gates(checkpoint.model, network))
    layer: Any = network.get_submodule("vision_model.encoder.layers.1.mlp.fc1")
    scale = layer.weight_scale
    try:
        layer.weight_scale = 2 * scale
        refused = [gate.subject for gate in rounding_gates(checkpoint.model, network) if not gate.passed]
    finally:
        layer.weight_scale = scale
    assert refused == ["image_encoder"]


@settings(max_examples=30, deadline=None)
@given(st.floats(1e-6, 1e4), st.sampled_from([np.float16, np.float32]), st.integers(0, 2**16))
def test_torch_rounds_as_onnxruntime(largest: float, dtype: Any, seed: int) -> None:
    """Numbers beyond the largest become it. Ties and subnormal numbers are among these."""
    scale = scale_for(largest)
    assert scale == float(np.float16(scale))
    assert scale * LARGEST_FP8 >= largest * (1 - 1e-6)
    steps = np.arange(-900, 901) / 2 * scale
    random = np.random.default_rng(seed).normal(size=200) * largest
    x = np.clip(np.concatenate([steps, random]), -60000, 60000).astype(dtype)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["rounded"]),
            helper.make_node("DequantizeLinear", ["rounded", "scale", "zero"], ["y"]),
        ],
        "rounding",
        [helper.make_tensor_value_info("x", kind, ["n"])],
        [helper.make_tensor_value_info("y", kind, ["n"])],
        [
            numpy_helper.from_array(np.array(scale, dtype), "scale"),
            helper.make_tensor("zero", onnx.TensorProto.FLOAT8E4M3FN, [], b"\0", raw=True),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": x})
    np.testing.assert_array_equal(found, rounded(torch.from_numpy(x), scale).numpy())


def test_a_layer_keeps_its_weights_when_the_network_changes_its_type() -> None:
    linear = nn.Linear(8, 4)
    layer = Fp8Linear(linear, 0.01, scale_for(float(linear.weight.detach().abs().max())))
    assert layer.steps_off(linear.weight.detach().t()) <= 0.5
    before = layer.weight.view(torch.uint8).clone()
    for changed in (layer.half(), layer.float()):
        assert changed.weight.dtype == torch.float8_e4m3fn
        assert torch.equal(changed.weight.view(torch.uint8), before)


def test_other_engines_say_what_to_do(fp8_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle(fp8_bundle)
    for options in (None, EngineOptions("onnxruntime"), EngineOptions("openvino", emulate=True), EngineOptions("auto")):
        with pytest.raises(UsageError, match=r"is in FP8, and .* has no products in FP8") as refusal:
            open_engine(bundle, options)
        assert f"lrclr build {fp8_bundle} --engine tensorrt" in str(refusal.value)
    with pytest.raises(UsageError, match="no products in FP8"):
        open_model(fp8_bundle)
    with pytest.raises(UsageError, match="no products in FP8"):
        bundle.require_servable()
    folder = bundles.copied(fp8_bundle, tmp_path / "bundle")
    for engine in ("onnxruntime", "openvino", "auto"):
        with pytest.raises(UsageError, match="no products in FP8"):
            build_bundle(folder, engine)
    assert bundles.digests(folder) == bundles.digests(fp8_bundle)


def test_the_commands_say_what_to_do(fp8_bundle: Path, checkpoint_folder: Path, tmp_path: Path) -> None:
    sample = bundles.radiograph(tmp_path / "one.png")
    for command in (
        ("predict", sample, "-b", fp8_bundle),
        ("serve", fp8_bundle),
        ("bench", fp8_bundle),
        ("build", fp8_bundle, "--engine", "openvino"),
        ("build", fp8_bundle, "--engine", "auto"),
    ):
        done = bundles.call(*command)
        assert done.returncode == 2, (command, done.stderr)
        assert "no products in FP8" in done.stderr
        assert "--engine tensorrt" in done.stderr
    done = bundles.call("verify", fp8_bundle)
    assert done.returncode == 0, done.stderr
    for options in (("--fp16",), ("--int8",), ("--engine", "onnxruntime"), ("--engine", "openvino"), ("--opset", 18)):
        done = bundles.call("export", checkpoint_folder, "--fp8", *options, "-o", tmp_path / "bundle")
        assert done.returncode == 2, (options, done.stderr)
        assert not (tmp_path / "bundle").exists()


def test_layers_that_float16_cannot_hold_stay_in_float32(checkpoint: Checkpoint) -> None:
    name = "vision_model.encoder.layers.0.mlp.fc2"
    limits = Tolerances.for_precision("fp8")
    calibration = carried_calibration(checkpoint.preprocess)
    made = quantized(checkpoint, calibration, limits, precision="fp8", too_large=[name], search_layers=False)
    assert isinstance(made.model.get_submodule(name), nn.Linear)
    graph = made.record["graphs"]["image_encoder"]
    assert graph["float_layers"] == {name: "float16 cannot hold its output"}
    assert graph["fp8_layers"] == LAYERS["image_encoder"] - 1


@pytest.mark.slow
def test_tensorrt_rtx_builds_the_graphs_for_gpus_with_fp8(fp8_bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is for x86-64 Linux")
    folder = bundles.copied(fp8_bundle, tmp_path / "bundle")
    with pytest.raises(UsageError, match=r"compute capability 8\.6 have no products in FP8"):
        build_bundle(folder, BuildOptions("tensorrt-rtx", ("8.6", "8.9")))
    with pytest.raises(UsageError, match="no products in FP8"):
        build_bundle(folder, BuildOptions("tensorrt-rtx", ("8.9",), hardware_compatible="ampere+"))
    (entry,) = build_bundle(folder, BuildOptions("tensorrt-rtx", ("8.9", "12.0"))).manifest.plans
    manifest = Bundle(fp8_bundle).manifest
    for graph in GRAPHS:
        wanted = manifest.graphs[graph]["precision_histogram"]["MatMul"].get("float8", 0)
        found: dict[str, Any] = entry["graphs"][graph]["precision_histogram"]["MATRIX_MULTIPLY"]
        assert found.get("float8", 0) == wanted
        # What the builder made of it: these products multiply FP8.
        products = entry["graphs"][graph]["built"]["profiles"][-1]["products"]
        assert (products.get("float8", 0) > 0) == (wanted > 0)


@pytest.mark.slow
def test_trained_weights_keep_the_limits(quiet_transformers: None, tmp_path: Path) -> None:
    export_bundle(load_checkpoint("default"), tmp_path / "bundle", ExportOptions("fp8"))
    gates = {(gate["gate"], gate["subject"]): gate["value"] for gate in Bundle(tmp_path / "bundle").manifest.gates}
    assert gates["centred cosine", "image_encoder.image_embedding"] > 0.995
    assert gates["region gap", "image_encoder.region_index"] < 0.035
    assert gates["task AUROC difference", "findings"] <= 0.005
