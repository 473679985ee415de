"""The gate about what an engine runs: int8 products in the file that run in float32 are refused."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from lrclr import Bundle

# Private: functions that tests replace to simulate other processors.
from lrclr.auto import _choice, choose_engine
from lrclr.bundle import GRAPHS
from lrclr.engines import OnnxRuntimeEngine, OpenVINOEngine, _operators, products_by_type
from lrclr.errors import GateError
from lrclr.verification import verify
from tests import bundles

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from lrclr.engines import Engine

IMAGE = "image_encoder"
GATE = "int8 products that run in another type"


@pytest.fixture
def vnni(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulates a processor with int8 instructions."""
    monkeypatch.setattr(_operators, "cpu_flags", lambda: frozenset({"avx512_vnni"}))


@contextmanager
def changed_image_encoder(bundle: Path, folder: Path) -> Iterator[tuple[Any, dict[str, Any], dict[str, Any]]]:
    """Copy a bundle, let the block change the copy's image encoder, and sign the copy.

    Yields:
        The graph, its constants by name, and the node that makes each value.
    """
    bundles.copied(bundle, folder)
    path = Bundle(folder).graph_path(IMAGE)
    model = onnx.load(path)
    graph = model.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    yield graph, constants, {name: node for node in graph.node for name in node.output}
    onnx.save(model, path)
    bundles.signed(folder)


def with_separate_products(bundle: Path, folder: Path) -> Path:
    """A copy of an int8 bundle whose image encoder computes query, key and value in separate products."""
    with changed_image_encoder(bundle, folder) as (graph, constants, makers):
        for split in [node for node in graph.node if node.op_type == "Split"]:
            add = makers[split.input[0]]
            multiply = makers[next(name for name in add.input if name in makers)]
            weight = makers[multiply.input[1]]
            (bias,) = (constants[name] for name in add.input if name in constants)
            start, new_nodes = 0, []
            for part, width in zip(split.output, constants[split.input[1]], strict=True):
                columns = slice(start, start + int(width))
                start += int(width)
                pieces = [
                    constants[weight.input[0]][:, columns],
                    *(constants[name][columns] for name in weight.input[1:]),
                ]
                pieces.append(bias[columns])
                names = [f"{part}.{place}" for place in range(4)]
                graph.initializer.extend(map(numpy_helper.from_array, pieces, names))
                new_nodes += [
                    helper.make_node("DequantizeLinear", names[:3], [f"{part}.weight"], axis=1),
                    helper.make_node("MatMul", [multiply.input[0], f"{part}.weight"], [f"{part}.product"]),
                    helper.make_node("Add", [f"{part}.product", names[3]], [part]),
                ]
            place = list(graph.node).index(split)
            for node in (multiply, add, split):
                graph.node.remove(node)
            for node in reversed(new_nodes):
                graph.node.insert(place - 2, node)
        del graph.value_info[:]
    return folder


def test_int8_products_that_run_in_float32_are_refused(int8_bundle: Path, vnni: None, tmp_path: Path) -> None:
    bundle = Bundle(with_separate_products(int8_bundle, tmp_path / "bundle"))
    report = verify(bundle, OnnxRuntimeEngine(bundle))
    assert [(gate.gate, gate.subject) for gate in report.refused] == [(GATE, IMAGE)]
    assert report.refused[0].value >= 2
    with pytest.raises(GateError, match=r"int8 products that run in another type of image_encoder.*in float32"):
        report.require()


def with_float_products(bundle: Path, folder: Path) -> Path:
    """A copy of an int8 bundle whose image encoder has query, key and value in float32, unlike its manifest."""
    with changed_image_encoder(bundle, folder) as (graph, constants, makers):
        for split in [node for node in graph.node if node.op_type == "Split"]:
            multiply = makers[next(name for name in makers[split.input[0]].input if name in makers)]
            weight, scale, _ = (constants[name] for name in makers[multiply.input[1]].input)
            name = f"{multiply.output[0]}.float_weight"
            graph.initializer.append(numpy_helper.from_array((weight * scale).astype(np.float32), name))
            multiply.input[:] = [makers[makers[multiply.input[0]].input[0]].input[0], name]
    return folder


@pytest.mark.parametrize("engine", [OnnxRuntimeEngine, OpenVINOEngine])
def test_float32_products_of_an_int8_bundle_are_refused(
    engine: type[Any], int8_bundle: Path, vnni: None, tmp_path: Path
) -> None:
    bundle = Bundle(with_float_products(int8_bundle, tmp_path / "bundle"))
    report = verify(bundle, engine(bundle))
    refused = {gate.subject: gate.value for gate in report.refused if gate.gate == GATE}
    wanted = bundle.manifest.graphs[IMAGE]["precision_histogram"]["MatMul"]["int8"]
    layers = wanted - report.products[IMAGE]["int8"]
    assert layers >= 1
    assert refused == {IMAGE: layers}


@pytest.mark.slow
def test_the_command_refuses_such_a_bundle(int8_bundle: Path, tmp_path: Path) -> None:
    if not _operators.has_int8_products():
        pytest.skip("this processor has no instructions for int8")
    folder = with_separate_products(int8_bundle, tmp_path / "bundle")
    done = bundles.call("verify", folder, "--engine", "onnxruntime")
    assert done.returncode == 3
    assert GATE in done.stderr
    done = bundles.call("build", folder, "--engine", "auto")
    assert done.returncode == 0, done.stderr
    assert Bundle(folder).manifest.engine["name"] == "openvino"
    assert GATE in Bundle(folder).manifest.engine["why"]


def test_merged_products_run_in_int8(int8_bundle: Path, vnni: None) -> None:
    bundle = Bundle(int8_bundle)
    engines: tuple[Any, ...] = (OnnxRuntimeEngine(bundle), OpenVINOEngine(bundle))
    for engine in engines:
        report = verify(bundle, engine)
        gates = {gate.subject: gate.value for gate in report.gates if gate.gate == GATE}
        assert gates == dict.fromkeys(GRAPHS, 0)
        assert report.products[IMAGE]["int8"] == bundle.manifest.graphs[IMAGE]["precision_histogram"]["MatMul"]["int8"]
        assert report.passed
    for graph in GRAPHS:
        assert bundle.manifest.graphs[graph]["products_run"] == verify(bundle, engines[0]).products[graph]


def test_float16_needs_an_engine_that_has_it(fp16_bundle: Path) -> None:
    bundle = Bundle(fp16_bundle)
    plain = verify(bundle, OnnxRuntimeEngine(bundle))
    assert plain.passed
    assert any("16-bit products does not apply" in note for note in plain.notes)
    half = OpenVINOEngine(bundle)
    report = verify(bundle, half)
    gates = [gate.value for gate in report.gates if gate.gate == "float16 products that run in another type"]
    assert gates == ([0, 0, 0] if "bfloat16" in half.product_types else [])


def test_float16_that_openvino_runs_in_float32_is_refused(fp16_bundle: Path) -> None:
    bundle = Bundle(fp16_bundle)
    engine = OpenVINOEngine({graph: bundle.graph_path(graph) for graph in GRAPHS})
    if "bfloat16" not in engine.product_types:
        pytest.skip("this processor has no bfloat16")
    refused = {gate.gate for gate in verify(bundle, engine).refused}
    assert refused == {"float16 products that run in another type"}


def test_without_instructions_for_int8_the_gate_does_not_apply(
    int8_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_operators, "cpu_flags", lambda: frozenset({"avx2", "fma"}))
    bundle = Bundle(with_separate_products(int8_bundle, tmp_path / "bundle"))
    report = verify(bundle, OnnxRuntimeEngine(bundle))
    assert report.passed
    assert any("int8 products does not apply" in note and "avx512_vnni" in note for note in report.notes)


@pytest.mark.slow
def test_auto_also_measures_float32_without_instructions_for_int8(
    int8_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_operators, "cpu_flags", lambda: frozenset({"avx2", "fma"}))
    measured: list[set[str]] = []
    fastest = _choice._fastest

    def recorded(engines: Mapping[str, Engine], *rest: Any) -> tuple[str, str]:
        measured.append(set(engines))
        fastest(engines, *rest)
        return "onnxruntime in float32", "it was the fastest"

    monkeypatch.setattr(_choice, "_fastest", recorded)
    chosen = choose_engine(Bundle(int8_bundle))
    assert measured == [{"onnxruntime", "openvino", "onnxruntime in float32"}]
    assert chosen.kind == "onnxruntime"
    assert chosen.name.endswith("float32 products")


def test_float32_products_round_like_int8_products(int8_bundle: Path, golden_pixels: np.ndarray[Any, Any]) -> None:
    bundle = Bundle(int8_bundle)
    inputs = {"pixel_values": golden_pixels}
    in_float = OnnxRuntimeEngine(bundle, int8_products=False)
    assert "int8" not in products_by_type(in_float.operators(IMAGE, inputs))
    for name, value in in_float.run(IMAGE, inputs).items():
        if name != "region_index":
            # Different rounding of the sum can change a number that lies between two steps.
            error = np.abs(value - OnnxRuntimeEngine(bundle).run(IMAGE, inputs)[name])
            assert np.mean(error) < 0.01 * np.std(value)


@pytest.fixture
def golden_pixels(int8_bundle: Path) -> np.ndarray[Any, Any]:
    from lrclr.bundle import Golden

    return Golden.load(Bundle(int8_bundle).golden_path)["pixel_values"][:2]
