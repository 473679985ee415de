"""Graphs without ONNX functions can be run by runtimes that do not expand functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator

from lrclr import Bundle
from lrclr.bundle import Golden
from lrclr.cli import main
from tests.kept_exports import exporting_once

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

OUTPUTS = ("image_embedding", "region_tokens", "region_index", "region_importance")


@pytest.fixture(scope="module")
def bundle(checkpoint_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("inlined") / "bundle"
    command = ["export", str(checkpoint_folder), "--fp32", "--inline", "--engine", "onnxruntime", "-o", str(folder)]
    with exporting_once():
        assert main(command) == 0
    return Bundle(folder)


def _onnxruntime(path: Path, pixels: NDArray[np.float32]) -> list[NDArray[Any]]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found: list[NDArray[Any]] = session.run(list(OUTPUTS), {"pixel_values": pixels})
    return found


def _reference(path: Path, pixels: NDArray[np.float32]) -> list[NDArray[Any]]:
    found: list[NDArray[Any]] = ReferenceEvaluator(str(path)).run(list(OUTPUTS), {"pixel_values": pixels})
    return found


def _openvino(path: Path, pixels: NDArray[np.float32]) -> list[NDArray[Any]]:
    """OpenVINO as installed, without lrclr's extension for the region node."""
    openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed")
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    found = compiled({"pixel_values": pixels})
    return [found[name] for name in OUTPUTS]


@pytest.mark.parametrize("run", [_onnxruntime, _reference, _openvino])
def test_other_runtimes_give_pytorchs_answer(
    bundle: Bundle, run: Callable[[Path, NDArray[np.float32]], list[NDArray[Any]]]
) -> None:
    golden, path = Golden.load(bundle.golden_path), bundle.inlined_path("image_encoder")
    assert path is not None
    for name, array in zip(OUTPUTS, run(path, golden["pixel_values"][:2]), strict=True):
        np.testing.assert_allclose(array, golden[name][:2], rtol=1e-4, atol=1e-5, err_msg=name)


def test_the_manifest_and_the_gates_know_the_file(bundle: Bundle) -> None:
    assert "image_encoder/1/model.inlined.onnx" in bundle.manifest.files
    assert [bundle.inlined_path(graph) for graph in ("text_encoder", "fusion_head")] == [None, None]
    gates = [gate for gate in bundle.manifest.gates if gate["subject"].endswith("(inlined)")]
    assert {"cosine", "max error", "region gap"} <= {gate["gate"] for gate in gates}


def test_both_graphs_read_the_same_weights(bundle: Bundle) -> None:
    path = bundle.inlined_path("image_encoder")
    assert path is not None
    assert [file.name for file in path.parent.glob("*.data")] == ["model.onnx.data"]
    assert path.stat().st_size < 300_000


def test_the_other_graphs_have_nothing_to_expand(bundle: Bundle) -> None:
    for graph in ("text_encoder", "fusion_head"):
        model = onnx.load(bundle.graph_path(graph), load_external_data=False)
        assert not model.functions
        assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}


def test_tensorrt_still_finds_the_node(bundle: Bundle) -> None:
    """TensorRT's plugin replaces the node of the graph with functions. The inlined graph does not have this node."""
    kept = onnx.load(bundle.graph_path("image_encoder"))
    (node,) = [node for node in kept.graph.node if node.domain == "lrclr"]
    assert {"plugin_namespace", "plugin_version"} <= {attribute.name for attribute in node.attribute}
    path = bundle.inlined_path("image_encoder")
    assert path is not None
    inlined = onnx.load(path)
    assert not inlined.functions
    assert {node.domain for node in inlined.graph.node} <= {"", "ai.onnx"}
    assert "lrclr" not in {opset.domain for opset in inlined.opset_import}


def test_without_the_option_there_is_no_such_file(fp32_bundle: Path) -> None:
    assert not list(fp32_bundle.rglob("*inlined*"))
