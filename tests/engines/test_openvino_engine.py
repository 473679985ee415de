"""OpenVINO gives ONNX Runtime's answers, from many threads, and sends no telemetry."""

from __future__ import annotations

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import CalibrationDataReader, quantize_static

from lrclr import Bundle, ZeroShotClassifier
from lrclr.auto import ChosenEngine, choose_engine, open_engine
from lrclr.bundle import GRAPHS, Golden
from lrclr.engines import AUTO, EngineOptions, OnnxRuntimeEngine, OpenVINOEngine

# Private: the processor's instructions decide what is expected.
from lrclr.engines._openvino import precision_here
from lrclr.errors import EngineError, GateError, UsageError
from lrclr.samples import sample_paths
from lrclr.verification import verify
from tests import bundles

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("openvino")

Arrays = dict[str, np.ndarray[Any, Any]]
FP32_IS_SLOW = ["fp16", pytest.param("fp32", marks=pytest.mark.slow)]


@pytest.fixture(scope="module", params=["fp16", "fp32"])
def bundle(
    request: pytest.FixtureRequest, quiet_transformers: None, tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    return Bundle(bundles.exported(tmp_path_factory.getbasetemp(), request.param))


@pytest.fixture(scope="module")
def golden(bundle: Bundle) -> Golden:
    return Golden.load(bundle.golden_path)


@pytest.fixture(scope="module")
def engine(bundle: Bundle) -> OpenVINOEngine:
    return OpenVINOEngine(bundle)


def golden_inputs(golden: Golden, graph: str, rows: int) -> Arrays:
    """Golden inputs of a graph, for some of its rows."""
    length = int(golden["text_mask"][:rows].sum(1).max())
    of_graph: dict[str, Arrays] = {
        "image_encoder": {"pixel_values": golden["pixel_values"][:rows]},
        "text_encoder": {"input_ids": golden["input_ids"][:rows, :length]},
        "fusion_head": {
            "region_tokens": golden["region_tokens"][:2],
            "text_tokens": golden["text_tokens"][:rows, :length],
            "text_mask": golden["text_mask"][:rows, :length],
        },
    }
    return of_graph[graph]


@pytest.mark.parametrize("rows", [1, 2, 7])
@pytest.mark.parametrize("graph", GRAPHS)
def test_each_graph_equals_onnx_runtime(
    bundle: Bundle, golden: Golden, engine: OpenVINOEngine, graph: str, rows: int
) -> None:
    inputs = golden_inputs(golden, graph, rows)
    onnx_runtime = OnnxRuntimeEngine(bundle).run(graph, inputs)
    openvino = engine.run(graph, inputs)
    assert openvino.keys() == onnx_runtime.keys()
    for name, expected in onnx_runtime.items():
        assert openvino[name].dtype == expected.dtype
        assert openvino[name].shape == expected.shape
        # In float16, ONNX Runtime rounds between nodes. OpenVINO does not do so here.
        tolerance = 1e-5 if bundle.manifest.precision == "fp32" else 2e-2
        assert openvino[name] == pytest.approx(expected, abs=tolerance * max(1.0, float(np.abs(expected).max()))), name


def test_answers_do_not_share_memory(engine: OpenVINOEngine, golden: Golden) -> None:
    """OpenVINO reuses the memory of a run. Earlier answers and the inputs must not change."""
    pixels = golden["pixel_values"].copy()
    first = engine.run("image_encoder", {"pixel_values": pixels[:1]})
    copies = {name: array.copy() for name, array in first.items()}
    engine.run("image_encoder", {"pixel_values": pixels[1:2]})
    assert all(np.array_equal(first[name], copies[name]) for name in copies)
    assert np.array_equal(pixels, golden["pixel_values"])


def test_threads_get_their_own_answers(engine: OpenVINOEngine, golden: Golden) -> None:
    images = [golden["pixel_values"][k % 8 : k % 8 + 1 + k % 3] for k in range(48)]

    def run(pixels: np.ndarray[Any, Any]) -> Arrays:
        return engine.run("image_encoder", {"pixel_values": pixels})

    alone = [run(pixels) for pixels in images]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(run, images))
    for expected, got in zip(alone, together, strict=True):
        assert all(np.array_equal(got[name], expected[name]) for name in expected)


def test_views_and_read_only_arrays(engine: OpenVINOEngine, golden: Golden) -> None:
    expected = engine.run("image_encoder", {"pixel_values": golden["pixel_values"][::2].copy()})
    strided = golden["pixel_values"][::2]
    frozen = strided.copy()
    frozen.flags.writeable = False
    for pixels in (strided, frozen):
        got = engine.run("image_encoder", {"pixel_values": pixels})
        assert all(np.array_equal(got[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "takes pixel_values"),
        ({"pixel_values": np.zeros((1, 3, 112, 112))}, "float64"),
        ({"pixel_values": np.zeros((1, 3, 100, 112), np.float32)}, "could not run image_encoder"),
        ({"pixel_values": np.zeros((1, 3), np.float32)}, "could not run image_encoder"),
    ],
)
def test_inputs_of_another_form_are_refused(engine: OpenVINOEngine, inputs: Arrays, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        engine.run("image_encoder", inputs)


def test_the_precision_is_reported(engine: OpenVINOEngine, bundle: Bundle) -> None:
    """bfloat16 is used for float16 bundles, if the processor has it. A float32 bundle runs in float32."""
    precision = engine.name.rpartition(" ")[2]
    assert precision == precision_here(half=bundle.manifest.precision == "fp16")
    assert precision_here(half=False) == "f32"
    assert _hint(engine, "image_encoder") == precision


def test_the_text_encoder_of_an_int8_bundle_may_be_in_bfloat16(int8_bundle: Path) -> None:
    engine = OpenVINOEngine(Bundle(int8_bundle))
    assert engine.name.endswith(" cpu f32")
    assert [_hint(engine, graph) for graph in GRAPHS] == ["f32", precision_here(half=True), "f32"]
    assert verify(Bundle(int8_bundle), engine).passed


def _hint(engine: OpenVINOEngine, graph: str) -> str:
    # Private: the public name is that of the whole engine.
    hint: str = engine._graph(graph)._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    return hint


def test_the_number_of_threads_can_be_set(bundle: Bundle) -> None:
    compiled = OpenVINOEngine(bundle, threads=1)._graph("text_encoder")._compiled
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
    with pytest.raises(UsageError, match="at least one thread"):
        OpenVINOEngine(bundle, threads=0)


def test_a_damaged_graph_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\x08\x0a\xff")
    with pytest.raises(EngineError, match="could not load image_encoder"):
        OpenVINOEngine({"image_encoder": tmp_path / "model.onnx"}).run("image_encoder", {})


def test_only_the_cpu_is_supported(bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="on the CPU"):
        open_engine(bundle, EngineOptions("openvino", provider="cuda"))


def test_a_classifier_can_use_openvino(bundle: Bundle) -> None:
    image = [np.asarray(np.random.default_rng(0).integers(0, 256, (90, 70)), np.uint8)]
    (openvino,) = ZeroShotClassifier.from_bundle(bundle.path, engine="openvino").predict(image)
    (onnx_runtime,) = ZeroShotClassifier.from_bundle(bundle.path, engine="onnxruntime").predict(image)
    for first, second in zip(openvino.findings, onnx_runtime.findings, strict=True):
        assert first.probability == pytest.approx(second.probability, abs=2e-3)
    assert [region.patch for region in openvino.regions] == [region.patch for region in onnx_runtime.regions]


def test_commands_accept_openvino(bundle: Bundle) -> None:
    verified = bundles.call("verify", bundle.path, "--engine", "openvino", "--json")
    assert verified.returncode == 0, verified.stderr
    report = json.loads(verified.stdout)
    assert report["engine"].startswith("openvino ")
    assert all(gate["passed"] for gate in report["gates"])
    done = bundles.call("predict", sample_paths()[0], "-b", bundle.path, "--engine", "openvino", "--json")
    assert done.returncode == 0, done.stderr
    assert "run them in openvino with lrclr verify --engine openvino" in done.stderr


SCRIPT = """
import sys
from lrclr.engines._openvino_library import openvino_library
library = openvino_library()
print(sorted(name for name in sys.modules if name.startswith("openvino_telemetry")), hasattr(library, "convert_model"))
"""


def test_no_files_are_written_and_no_telemetry_is_sent(tmp_path: Path) -> None:
    environment = bundles.environment(HOME=str(tmp_path), TMPDIR=str(tmp_path))
    environment.pop("CI", None)
    done = subprocess.run([bundles.PYTHON, "-c", SCRIPT], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "[] True"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bundle", FP32_IS_SLOW, indirect=True)
def test_auto_measures_and_reports_the_fastest_engine(bundle: Bundle) -> None:
    chosen = choose_engine(bundle)
    assert chosen.kind in {"onnxruntime", "openvino"}
    assert chosen.name.startswith(chosen.kind)
    assert "ms for a radiograph here" in chosen.why
    done = bundles.call("predict", sample_paths()[0], "-b", bundle.path, "--engine", AUTO, "--csv")
    assert done.returncode == 0
    assert done.stderr.startswith("engine o")


@pytest.mark.parametrize("bundle", FP32_IS_SLOW, indirect=True)
def test_auto_does_not_choose_an_engine_that_fails_its_gates(bundle: Bundle, tmp_path: Path) -> None:
    """A limit that every engine exceeds stands for a wrong engine."""
    folder = bundles.copied(bundle.path, tmp_path / "bundle")
    bundles.signed(folder, tolerances={**bundle.manifest.tolerances, "spread": 10.0})
    with pytest.raises(GateError, match=r"openvino: the gate .* failed"):
        choose_engine(Bundle(folder))


@pytest.mark.parametrize("bundle", FP32_IS_SLOW, indirect=True)
def test_auto_also_chooses_the_provider(bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="--provider"):
        open_engine(bundle, EngineOptions(AUTO, provider="cuda"))
    assert isinstance(open_engine(bundle, EngineOptions(AUTO)), ChosenEngine)


class _SomePrompts(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self) -> None:
        ids = np.random.default_rng(0).integers(1, 49_000, (4, 3, 12))
        ids[..., -1] = 49_407
        self._left = iter([{"input_ids": row} for row in ids])

    def get_next(self) -> Arrays | None:
        return next(self._left, None)


def test_a_quantised_graph_runs_in_int8(bundle: Bundle, golden: Golden, tmp_path: Path) -> None:
    """Products between QDQ nodes: OpenVINO multiplies in int8, and is as close to ONNX Runtime as int8 allows."""
    if bundle.manifest.precision != "fp32":
        pytest.skip("quantisation starts from float32")
    model = onnx.load(bundle.graph_path("text_encoder"))
    del model.graph.value_info[:]
    onnx.save(model, tmp_path / "plain.onnx")
    quantised = tmp_path / "quantised.onnx"
    quantize_static(
        tmp_path / "plain.onnx", quantised, _SomePrompts(), per_channel=True, op_types_to_quantize=["MatMul"]
    )
    paths, inputs = {"text_encoder": quantised}, golden_inputs(golden, "text_encoder", 5)
    engine = OpenVINOEngine(paths)
    openvino = engine.run("text_encoder", inputs)["text_embedding"]
    onnx_runtime = OnnxRuntimeEngine(paths).run("text_encoder", inputs)["text_embedding"]
    assert float((openvino * onnx_runtime).sum(-1).min()) > 0.98
    nodes = engine._graph("text_encoder")._compiled.get_runtime_model().get_ordered_ops()
    kernels = [
        node.get_rt_info()["primitiveType"].astype(str) for node in nodes if "MatMul" in node.get_friendly_name()
    ]
    assert any(kernel.endswith("i8") for kernel in kernels)
