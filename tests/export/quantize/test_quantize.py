"""int8: the export is as requested, sums do not overflow on any processor, and results do not depend on the batch."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from torch import nn

from lrclr import Bundle, load_checkpoint
from lrclr.bundle import GRAPHS
from lrclr.engines import OnnxRuntimeEngine
from lrclr.errors import ExportError, GateError, UsageError
from lrclr.images import read_image
from lrclr.verification import Tolerances, gate_images

# Private: the search is tested on a network whose best answer is known.
from lrclr.verification._task import task_images
from lrclr_export import BuildOptions, ExportOptions, build_bundle, export_bundle
from lrclr_export.onnx.graphs import GraphSpec
from lrclr_export.onnx.onnx_graph import typed_onnx_from_module
from lrclr_export.onnx.precision import precision_gate
from lrclr_export.progress import NoProgress
from lrclr_export.quantize import (
    LARGEST_WEIGHT,
    Int8Linear,
    PatchProduct,
    carried_calibration,
    quantized,
    read_calibration,
)
from lrclr_export.quantize._calibration import _carried
from lrclr_export.quantize._search import MOST_FEW_RUNS, most_runs, search
from tests import bundles

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lrclr.bundle import Golden
    from lrclr.checkpoints import Checkpoint

LAYERS = {"image_encoder": 19, "text_encoder": 12, "fusion_head": 3}
# Weights in the graphs. Query, key and value of a layer share one weight. In the last image layer, only key and value
# do.
WEIGHTS = {"image_encoder": 14, "text_encoder": 8, "fusion_head": 3}


@pytest.fixture(scope="module")
def engine(int8_bundle: Path) -> OnnxRuntimeEngine:
    return OnnxRuntimeEngine(Bundle(int8_bundle))


def test_the_manifest_says_what_was_done(int8_bundle: Path) -> None:
    manifest = Bundle(int8_bundle).manifest
    assert manifest.precision == "int8"
    assert manifest.quantization is not None
    calibration = manifest.quantization["calibration"]
    assert (calibration["kind"], calibration["images"], len(calibration["sha256"])) == ("carried", 64, 64)
    for graph, layers in LAYERS.items():
        entry = manifest.quantization["graphs"][graph]
        assert entry["int8_layers"] == layers
        assert manifest.graphs[graph]["precision_histogram"].get("layers", {}).get("int8", 0) == layers


def test_other_precisions_have_nothing_to_say(fp32_bundle: Path) -> None:
    assert Bundle(fp32_bundle).manifest.quantization is None


@pytest.mark.parametrize("graph", GRAPHS)
def test_what_tensorrt_and_processors_without_vnni_need(int8_bundle: Path, graph: str) -> None:
    """Counted in the file: zero points are 0, weights have at most 7 bits, and each input has one static scale."""
    model = onnx.load(Bundle(int8_bundle).graph_path(graph))
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    of_weights = 0
    for node in model.graph.node:
        if node.op_type in {"QuantizeLinear", "DequantizeLinear"}:
            assert constants[node.input[2]].dtype == np.int8
            assert not constants[node.input[2]].any()
            weight = constants.get(node.input[0])
            if weight is None:
                assert constants[node.input[1]].ndim == 0
            else:
                of_weights += 1
                assert np.abs(weight.astype(int)).max() == LARGEST_WEIGHT
                assert constants[node.input[1]].shape == (weight.shape[1],)
    assert of_weights == WEIGHTS[graph]


def test_no_sum_saturates(tmp_path: Path) -> None:
    """The worst case, compared with the exact result: all weights and inputs have the largest value.

    Without VNNI, x86 adds two products of an unsigned and a signed byte in 16 bits.
    """
    assert np.iinfo(np.int16).max >= 2 * 255 * LARGEST_WEIGHT
    linear = nn.Linear(256, 8)
    with torch.no_grad():
        linear.weight.fill_(1.0)
        linear.weight[1::2] = -1.0
        linear.bias.zero_()
    layer = Int8Linear(linear, 1 / 127)
    rows = torch.stack([torch.full((256,), value) for value in (1.0, -128 / 127)])
    spec = GraphSpec("layer", layer, {"x": rows}, {"x": {0: torch.export.Dim("rows", min=2, max=9)}}, ("y",))
    typed_onnx_from_module(spec, opset=20).save(tmp_path / "layer.onnx")
    found = OnnxRuntimeEngine({"layer": tmp_path / "layer.onnx"}).run("layer", {"x": rows.numpy()})["y"]
    exact = np.outer([256.0, -256 * 128 / 127], [1, -1] * 4)
    np.testing.assert_allclose(found, exact, rtol=1e-6)


def test_neither_batch_mates_nor_padding_change_a_result(engine: OnnxRuntimeEngine, golden: Golden) -> None:
    # Another image in the batch has far larger values. With dynamic scales it would change the scale of all images.
    loud = golden["pixel_values"][:3] * np.array([1, 50, 1], np.float32)[:, None, None, None]
    together = engine.run("image_encoder", {"pixel_values": loud})
    alone = engine.run("image_encoder", {"pixel_values": golden["pixel_values"][:1]})
    np.testing.assert_allclose(together["image_embedding"][:1], alone["image_embedding"], atol=1e-6)
    ids = golden["input_ids"][:1, : int(golden["text_mask"][0].sum())]
    trimmed = engine.run("text_encoder", {"input_ids": ids})["text_embedding"]
    padded = engine.run("text_encoder", {"input_ids": golden["input_ids"]})["text_embedding"][:1]
    np.testing.assert_allclose(trimmed, padded, atol=1e-6)


@pytest.mark.parametrize("graph", GRAPHS)
def test_a_graph_without_int8_is_refused(fp32_bundle: Path, int8_bundle: Path, graph: str) -> None:
    def refused(bundle: Path, layers: int) -> list[str]:
        histogram = Bundle(bundle).manifest.graphs[graph]["precision_histogram"]
        return [
            gate.gate for gate in precision_gate(graph, histogram, "int8", quantised_layers=layers) if not gate.passed
        ]

    assert refused(int8_bundle, LAYERS[graph]) == []
    assert refused(fp32_bundle, LAYERS[graph]) == ["layers in int8"]
    assert refused(int8_bundle, LAYERS[graph] + 1) == ["layers in int8"]


@pytest.mark.slow
def test_the_same_checkpoint_gives_the_same_bytes(int8_bundle: Path, checkpoint: Checkpoint, tmp_path: Path) -> None:
    export_bundle(checkpoint, tmp_path / "again", ExportOptions("int8", tolerances=bundles.LOOSE))
    assert bundles.digests(tmp_path / "again") == bundles.digests(int8_bundle)


def test_a_network_that_loses_too_much_is_refused(checkpoint: Checkpoint) -> None:
    """No int8 network can keep these limits."""
    limits = Tolerances.for_precision("int8").overridden({"centred_cosine": 0.99999999})
    with pytest.raises(GateError, match="loses too much in int8") as refusal:
        quantized(checkpoint, carried_calibration(checkpoint.preprocess), limits)
    assert refusal.value.exit_code == 3


def test_the_layers_that_cost_most_stay_in_float() -> None:
    cost = {"a": 0.001, "b": 0.5, "c": 0.002, "d": 0.3}
    outcome = search(list(cost), lambda names: {"loss": sum(cost[name] for name in names)}, {"loss": 0.01})
    assert set(outcome.floats) == {"b", "d"}
    assert outcome.losses["loss"] == pytest.approx(0.003)
    assert search(list(cost), lambda names: {"loss": 0.0}, {"loss": 0.01}).floats == {}


def test_few_inputs_order_the_groups_and_all_inputs_decide() -> None:
    cost = {"a": 0.001, "b": 0.02, "c": 0.003}
    seen: list[set[str]] = []

    def few(names: set[str]) -> dict[str, float]:
        seen.append(names)
        return {"loss": 2 * sum(cost[name] for name in names)}

    outcome = search(list(cost), lambda names: {"loss": sum(cost[name] for name in names)}, {"loss": 0.01}, few)
    assert list(outcome.floats) == ["b"]
    assert outcome.losses["loss"] == pytest.approx(0.004)
    assert {"b"} in seen


def test_the_layers_of_a_small_network_are_ordered_one_by_one() -> None:
    """Halves of a set would hide a bad layer beside a good one: six layers are bad, and only those stay in float32."""
    names = [f"layer {number}" for number in range(MOST_FEW_RUNS)]
    bad = {names[number] for number in (0, 5, 9, 14, 18, 23)}

    def losses(some: set[str]) -> dict[str, float]:
        return {"loss": sum(1.0 if name in bad else 1e-6 for name in some)}

    assert set(search(names, losses, {"loss": 0.5}).floats) == bad


@settings(max_examples=60)
@given(st.integers(1, 400), st.data())
def test_the_search_is_bounded_and_finds_few_bad_groups(groups: int, data: st.DataObject) -> None:
    """Runs are counted: logarithmically many on all inputs, and a constant number on few inputs."""
    names = [f"layer {number}" for number in range(groups)]
    bad = data.draw(st.sets(st.sampled_from(names), max_size=2))
    runs = {"all": 0, "few": 0}

    def losses(kind: str) -> Callable[[set[str]], dict[str, float]]:
        def of(some: set[str]) -> dict[str, float]:
            runs[kind] += 1
            return {"loss": sum(1.0 if name in bad else 1e-6 for name in some)}

        return of

    outcome = search(names, losses("all"), {"loss": 0.5}, losses("few"))
    assert runs["all"] <= most_runs(groups) <= 2 + np.ceil(np.log2(groups))
    assert runs["few"] <= MOST_FEW_RUNS
    assert bad <= set(outcome.floats)
    assert outcome.losses["loss"] <= 0.75 * 0.5
    if groups <= 48:
        assert set(outcome.floats) == bad


def test_without_a_search_all_layers_are_in_int8(checkpoint: Checkpoint) -> None:
    """No int8 network can keep these limits. The gates refuse it later."""
    limits = Tolerances.for_precision("int8").overridden({"centred_cosine": 0.99999999})
    record = quantized(checkpoint, carried_calibration(checkpoint.preprocess), limits, search_layers=False).record
    graphs = record["graphs"]
    assert {graph: graphs[graph]["int8_layers"] for graph in graphs} == LAYERS
    assert graphs["image_encoder"]["losses"]["centred cosine"] > 1e-8
    of_text = {"centred cosine", "cosine of tokens", "centred cosine of tokens", "probability"}
    assert graphs["text_encoder"]["losses"].keys() == of_text


def test_layers_that_change_probabilities_too_much_stay_in_float32(checkpoint: Checkpoint) -> None:
    calibration = carried_calibration(checkpoint.preprocess)
    limits = Tolerances.for_precision("int8").overridden(bundles.LOOSE)
    towers = ("image_encoder", "text_encoder")
    free = quantized(checkpoint, calibration, limits).record["graphs"]
    assert not any(free[graph]["float_layers"] for graph in towers)
    worst = max(towers, key=lambda graph: free[graph]["losses"]["probability"])
    limit = 1.3 * free[worst]["losses"]["probability"]
    assert limit > 0
    tight = limits.overridden({"probability_error": limit})
    part = quantized(checkpoint, calibration, tight).record["graphs"][worst]
    assert part["float_layers"]
    assert part["int8_layers"] < free[worst]["int8_layers"]
    assert part["losses"]["probability"] <= 0.75 * limit


def test_the_search_reports_its_progress(checkpoint: Checkpoint) -> None:
    class Steps(NoProgress):
        def __init__(self) -> None:
            self.tasks: list[str] = []
            self.steps: list[tuple[int, int]] = []

        def task(self, text: str) -> None:
            self.tasks.append(text)

        def step(self, phase: str, done: int, steps: int) -> None:
            self.steps.append((done, steps))

    seen = Steps()
    quantized(
        checkpoint,
        carried_calibration(checkpoint.preprocess),
        Tolerances.for_precision("int8").overridden(bundles.LOOSE),
        progress=seen,
    )
    assert sum("that int8 does not suit, in at most" in task for task in seen.tasks) == len(GRAPHS)
    assert seen.steps
    assert all(0 < done <= steps for done, steps in seen.steps)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.integers(1, 9), st.integers(1, 5), st.integers(0, 3), st.booleans(), st.integers(0, 2**16))
def test_a_product_of_patches_is_the_convolution(
    grid: int, size: int, width: int, edge: int, biased: bool, seed: int
) -> None:
    """Pixels at the edge that do not fill a patch are not read."""
    torch.manual_seed(seed)
    convolution = nn.Conv2d(3, width, size, size, bias=biased)
    side = grid * size + min(edge, size - 1)
    pixels = torch.randn(2, 3, side, side)
    with torch.no_grad():
        expected = convolution(pixels).flatten(2)
        found = PatchProduct(convolution)(pixels)
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-5, atol=1e-5)


def test_calibration_images_are_nobody_elses() -> None:
    """The gates do not use any of these images."""
    carried = {read_image(path).tobytes() for path in _carried().glob("*.png")}
    assert len(carried) == 64
    judged = {image.tobytes() for image in task_images().images} | {image.tobytes() for image in gate_images()}
    assert not carried & judged


def test_a_users_own_images(checkpoint: Checkpoint, tmp_path: Path) -> None:
    for number in range(16):
        bundles.radiograph(tmp_path / f"{number}.png", seed=number)
    found = read_calibration(tmp_path, checkpoint.preprocess)
    assert (found.kind, len(found.pixel_values)) == ("folder", 16)
    (tmp_path / "some.csv").write_text("image\n" + "".join(f"{number}.png\n" for number in range(16)))
    listed = read_calibration(tmp_path / "some.csv", checkpoint.preprocess)
    assert (listed.kind, len(listed.pixel_values)) == ("manifest", 16)
    assert not {name for name in listed.to_dict().values() if str(tmp_path) in str(name)}


def test_bad_calibration_images_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    def refused(match: str, source: Path) -> None:
        with pytest.raises(UsageError, match=match):
            read_calibration(source, checkpoint.preprocess)

    refused("no image", tmp_path)
    refused("no folder of images", tmp_path / "absent")
    for number in range(15):
        bundles.radiograph(tmp_path / f"{number}.png", seed=number)
    refused("15 images are too few", tmp_path)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    refused("calibration image 16 of 16 cannot be read", tmp_path)


def test_the_command(checkpoint_folder: Path, tmp_path: Path) -> None:
    loose = [part for name, value in bundles.LOOSE.items() for part in ("--tolerance", f"{name}={value}")]
    few = bundles.radiograph(tmp_path / "one.png").parent
    done = bundles.call("export", checkpoint_folder, "--int8", "--calibration", few, "-o", tmp_path / "bundle", *loose)
    assert done.returncode == 2
    assert "too few" in done.stderr
    assert not (tmp_path / "bundle").exists()
    assert bundles.call("export", checkpoint_folder, "--int8", "--fp16").returncode == 2
    assert bundles.call("export", checkpoint_folder, "--calibration", few).returncode == 2
    assert bundles.call("export", checkpoint_folder, "--int8-search", "off").returncode == 2
    assert bundles.call("export", checkpoint_folder, "--int8", "--int8-search", "maybe").returncode == 2


@pytest.mark.slow
def test_tensorrt_rtx_builds_the_graphs(int8_bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is for x86-64 Linux")
    folder = bundles.copied(int8_bundle, tmp_path / "bundle")
    (entry,) = build_bundle(folder, BuildOptions("tensorrt-rtx", ("8.6",))).manifest.plans
    manifest = Bundle(int8_bundle).manifest
    for graph in GRAPHS:
        wanted = manifest.graphs[graph]["precision_histogram"]["MatMul"].get("int8", 0)
        found: dict[str, Any] = entry["graphs"][graph]["precision_histogram"]["MATRIX_MULTIPLY"]
        assert found.get("int8", 0) == wanted


@pytest.mark.slow
def test_a_plan_of_other_graphs_is_refused(int8_bundle: Path, fp32_bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is for x86-64 Linux")
    folder = bundles.copied(int8_bundle, tmp_path / "bundle")
    text = Bundle(folder).graph_path("text_encoder")
    shutil.copyfile(Bundle(fp32_bundle).graph_path("text_encoder"), text)
    with pytest.raises((GateError, ExportError), match="products in int8"):
        build_bundle(bundles.signed(folder), BuildOptions("tensorrt-rtx", ("8.6",)))


@pytest.mark.slow
def test_trained_weights_keep_the_limits(quiet_transformers: None, tmp_path: Path) -> None:
    export_bundle(load_checkpoint("default"), tmp_path / "bundle", ExportOptions("int8"))
    gates = {(gate["gate"], gate["subject"]): gate["value"] for gate in Bundle(tmp_path / "bundle").manifest.gates}
    assert gates["centred cosine", "image_encoder.image_embedding"] > 0.998
    assert gates["task AUROC difference", "findings"] <= 0.005
