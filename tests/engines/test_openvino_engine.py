"""OpenVINO over a bundle's graphs: what ONNX Runtime answers, from many threads, and nothing told to anybody."""

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

# Private: what the processor offers decides what is expected.
from lrclr.engines._openvino import precision_here
from lrclr.errors import EngineError, GateError, UsageError
from lrclr.samples import sample_paths
from tests import bundles

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("openvino")

Arrays = dict[str, np.ndarray[Any, Any]]


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


def asked(golden: Golden, graph: str, rows: int) -> Arrays:
    """Golden input of a graph, of some of its rows."""
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
def test_each_graph_answers_as_in_onnx_runtime(
    bundle: Bundle, golden: Golden, engine: OpenVINOEngine, graph: str, rows: int
) -> None:
    inputs = asked(golden, graph, rows)
    theirs = OnnxRuntimeEngine(bundle).run(graph, inputs)
    ours = engine.run(graph, inputs)
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        assert ours[name].dtype == expected.dtype
        assert ours[name].shape == expected.shape
        # In float16 ONNX Runtime rounds between nodes; OpenVINO, here, does not.
        tolerance = 1e-5 if bundle.manifest.precision == "fp32" else 2e-2
        assert ours[name] == pytest.approx(expected, abs=tolerance * max(1.0, float(np.abs(expected).max()))), name


def test_answers_are_their_own(engine: OpenVINOEngine, golden: Golden) -> None:
    """The memory of a run is the next one's: what was given out must not change, nor what was put in."""
    pixels = golden["pixel_values"].copy()
    first = engine.run("image_encoder", {"pixel_values": pixels[:1]})
    kept = {name: array.copy() for name, array in first.items()}
    engine.run("image_encoder", {"pixel_values": pixels[1:2]})
    assert all(np.array_equal(first[name], kept[name]) for name in kept)
    assert np.array_equal(pixels, golden["pixel_values"])


def test_many_threads_get_their_own_answers(engine: OpenVINOEngine, golden: Golden) -> None:
    images = [golden["pixel_values"][k % 8 : k % 8 + 1 + k % 3] for k in range(48)]

    def one(pixels: np.ndarray[Any, Any]) -> Arrays:
        return engine.run("image_encoder", {"pixel_values": pixels})

    alone = [one(pixels) for pixels in images]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(one, images))
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
    ("inputs", "said"),
    [
        ({}, "takes pixel_values"),
        ({"pixel_values": np.zeros((1, 3, 112, 112))}, "float64"),
        ({"pixel_values": np.zeros((1, 3, 100, 112), np.float32)}, "could not run image_encoder"),
        ({"pixel_values": np.zeros((1, 3), np.float32)}, "could not run image_encoder"),
    ],
)
def test_inputs_that_are_not_the_graphs(engine: OpenVINOEngine, inputs: Arrays, said: str) -> None:
    with pytest.raises(EngineError, match=said):
        engine.run("image_encoder", inputs)


def test_the_precision_is_said(engine: OpenVINOEngine, bundle: Bundle) -> None:
    """bfloat16 is for float16 bundles alone, where the processor has it; a float32 bundle stays what it is."""
    precision = engine.name.rpartition(" ")[2]
    assert precision == precision_here(half=bundle.manifest.precision == "fp16")
    assert precision_here(half=False) == "f32"
    compiled = engine._graph("image_encoder")._compiled
    assert compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() == precision


def test_threads(bundle: Bundle) -> None:
    compiled = OpenVINOEngine(bundle, threads=1)._graph("text_encoder")._compiled
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
    with pytest.raises(UsageError, match="at least one thread"):
        OpenVINOEngine(bundle, threads=0)


def test_a_damaged_graph(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\x08\x0a\xff")
    with pytest.raises(EngineError, match="could not load image_encoder"):
        OpenVINOEngine({"image_encoder": tmp_path / "model.onnx"}).run("image_encoder", {})


def test_it_is_for_the_cpu(bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="on the CPU"):
        open_engine(bundle, EngineOptions("openvino", provider="cuda"))


def test_a_classifier_answers_with_it(bundle: Bundle) -> None:
    image = [np.asarray(np.random.default_rng(0).integers(0, 256, (90, 70)), np.uint8)]
    (ours,) = ZeroShotClassifier.from_bundle(bundle.path, engine="openvino").predict(image)
    (theirs,) = ZeroShotClassifier.from_bundle(bundle.path, engine="onnxruntime").predict(image)
    for one, other in zip(ours.findings, theirs.findings, strict=True):
        assert one.probability == pytest.approx(other.probability, abs=2e-3)
    assert [region.patch for region in ours.regions] == [region.patch for region in theirs.regions]


def test_commands_take_it(bundle: Bundle) -> None:
    verified = bundles.call("verify", bundle.path, "--engine", "openvino", "--json")
    assert verified.returncode == 0, verified.stderr
    report = json.loads(verified.stdout)
    assert report["engine"].startswith("openvino ")
    assert all(gate["passed"] for gate in report["gates"])
    done = bundles.call("predict", sample_paths()[0], "-b", bundle.path, "--engine", "openvino", "--json")
    assert done.returncode == 0, done.stderr


SCRIPT = """
import sys
from lrclr.engines._openvino_library import openvino_library
library = openvino_library()
print(sorted(name for name in sys.modules if name.startswith("openvino_telemetry")), hasattr(library, "convert_model"))
"""


def test_nothing_is_kept_or_told(tmp_path: Path) -> None:
    environment = bundles.environment(HOME=str(tmp_path), TMPDIR=str(tmp_path))
    environment.pop("CI", None)
    done = subprocess.run([bundles.PYTHON, "-c", SCRIPT], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "[] True"
    assert list(tmp_path.iterdir()) == []


def test_the_fastest_is_measured_and_said(bundle: Bundle) -> None:
    chosen = choose_engine(bundle)
    assert chosen.kind in {"onnxruntime", "openvino"}
    assert chosen.name.startswith(chosen.kind)
    assert "ms for a radiograph here" in chosen.why
    done = bundles.call("predict", sample_paths()[0], "-b", bundle.path, "--engine", AUTO, "--csv")
    assert done.returncode == 0
    assert done.stderr.startswith("engine o")


def test_an_engine_whose_gates_refuse_is_not_taken(bundle: Bundle, tmp_path: Path) -> None:
    """A limit that no engine can hold stands for an engine that is wrong."""
    folder = bundles.copied(bundle.path, tmp_path / "bundle")
    bundles.signed(folder, tolerances={**bundle.manifest.tolerances, "spread": 10.0})
    with pytest.raises(GateError, match=r"openvino: the gate .* failed"):
        choose_engine(Bundle(folder))


def test_auto_chooses_the_provider_too(bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="--provider"):
        open_engine(bundle, EngineOptions(AUTO, provider="cuda"))
    assert isinstance(open_engine(bundle, EngineOptions(AUTO)), ChosenEngine)


class _SomePrompts(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self) -> None:
        ids = np.random.default_rng(0).integers(1, 49_000, (4, 3, 12))
        ids[..., -1] = 49_407
        self._left = iter([{"input_ids": one} for one in ids])

    def get_next(self) -> Arrays | None:
        return next(self._left, None)


def test_a_quantised_graph_runs_as_it_is(bundle: Bundle, golden: Golden, tmp_path: Path) -> None:
    """QDQ nodes around products: OpenVINO multiplies in int8, and is as near to ONNX Runtime as that allows."""
    if bundle.manifest.precision != "fp32":
        pytest.skip("quantisation starts from float32")
    model = onnx.load(bundle.graph_path("text_encoder"))
    del model.graph.value_info[:]
    onnx.save(model, tmp_path / "plain.onnx")
    quantised = tmp_path / "quantised.onnx"
    quantize_static(
        tmp_path / "plain.onnx", quantised, _SomePrompts(), per_channel=True, op_types_to_quantize=["MatMul"]
    )
    paths, inputs = {"text_encoder": quantised}, asked(golden, "text_encoder", 5)
    engine = OpenVINOEngine(paths)
    ours = engine.run("text_encoder", inputs)["text_embedding"]
    theirs = OnnxRuntimeEngine(paths).run("text_encoder", inputs)["text_embedding"]
    assert float((ours * theirs).sum(-1).min()) > 0.98
    nodes = engine._graph("text_encoder")._compiled.get_runtime_model().get_ordered_ops()
    kernels = [
        node.get_rt_info()["primitiveType"].astype(str) for node in nodes if "MatMul" in node.get_friendly_name()
    ]
    assert any(kernel.endswith("i8") for kernel in kernels)
