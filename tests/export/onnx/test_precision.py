"""The types in which a graph computes are counted, and a graph of another precision than requested is refused."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import onnx
import pytest
import torch

from lrclr import Bundle
from lrclr.bundle import GRAPHS
from lrclr.engines import OnnxRuntimeEngine
from lrclr.errors import GateError, UsageError
from lrclr.inference import ModelSpec
from lrclr.model import LrclrModel
from lrclr.verification import GateResult, Tolerances, raise_refused, run_gates
from lrclr_export.onnx.graphs import graph_specs
from lrclr_export.onnx.precision import half_precision, precision_gate, precision_histogram
from tests.kept_exports import kept_export

if TYPE_CHECKING:
    from pathlib import Path

    from lrclr.bundle import Golden
    from lrclr.checkpoints import Checkpoint

HEAVY, DELICATE = ("Conv", "Gemm", "MatMul"), ("LayerNormalization", "Softmax", "ReduceSum", "ReduceL2", "Sqrt")


def histograms(bundle: Path) -> dict[str, dict[str, dict[str, int]]]:
    return {name: graph["precision_histogram"] for name, graph in Bundle(bundle).manifest.graphs.items()}


@pytest.mark.parametrize("graph", GRAPHS)
def test_fp16_multiplies_in_half_and_normalises_in_single_precision(fp16_bundle: Path, graph: str) -> None:
    histogram = histograms(fp16_bundle)[graph]
    assert sum(sum(histogram.get(kind, {}).values()) for kind in HEAVY) > 5
    assert {name for kind in HEAVY for name in histogram.get(kind, {})} == {"float16"}
    assert histogram["LayerNormalization"].keys() == {"float32"}
    assert histogram["Softmax"].keys() == {"float32"}
    assert {name for kind in DELICATE for name in histogram.get(kind, {})} <= {"float32", "int64"}
    weights = histogram["weight_bytes"]
    assert weights["float16"] > 10 * weights["float32"]


@pytest.mark.parametrize("graph", GRAPHS)
def test_fp32_holds_no_half_precision_at_all(fp32_bundle: Path, graph: str) -> None:
    assert {name for kind in histograms(fp32_bundle)[graph].values() for name in kind} <= {"float32", "int64", "bool"}


@pytest.mark.parametrize("graph", GRAPHS)
def test_the_histogram_is_what_onnx_infers(fp16_bundle: Path, graph: str) -> None:
    """Counted again from the file, with ONNX's own type inference."""
    model = onnx.shape_inference.infer_shapes(onnx.load(Bundle(fp16_bundle).graph_path(graph)))
    values = [*model.graph.value_info, *model.graph.input, *model.graph.output]
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    types |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    counted = dict.fromkeys(HEAVY, 0)
    for node in model.graph.node:
        if node.op_type in HEAVY:
            assert types[node.input[0]] == types[node.input[1]] == onnx.TensorProto.FLOAT16
            counted[node.op_type] += 1
    found = histograms(fp16_bundle)[graph]
    assert counted == {kind: sum(found.get(kind, {}).values()) for kind in HEAVY}


@pytest.mark.parametrize("graph", GRAPHS)
def test_fp16_halves_the_weights(fp16_bundle: Path, fp32_bundle: Path, graph: str) -> None:
    single = sum(histograms(fp32_bundle)[graph]["weight_bytes"].values())
    half = sum(histograms(fp16_bundle)[graph]["weight_bytes"].values())
    assert 0.45 < half / single < 0.65


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize(("asked", "given"), [("fp16", "fp32"), ("fp32", "fp16")])
def test_another_precision_than_was_asked_for_is_refused(
    request: pytest.FixtureRequest, graph: str, asked: str, given: str
) -> None:
    histogram = histograms(request.getfixturevalue(f"{given}_bundle"))[graph]
    assert all(gate.passed for gate in precision_gate(graph, histogram, given))
    results = precision_gate(graph, histogram, asked)
    assert [gate.gate for gate in results if not gate.passed] == [f"products not in {asked}"]
    with pytest.raises(GateError, match=f"products not in {asked} of {graph} is"):
        raise_refused(results)


def test_a_single_product_in_another_type_is_refused() -> None:
    histogram = {"MatMul": {"float16": 47, "float32": 1}, "Gemm": {"float16": 1}}
    assert [gate.passed for gate in precision_gate("text_encoder", histogram, "fp16")] == [False, True]


def test_a_type_that_is_not_known_is_no_pass() -> None:
    assert not precision_gate("text_encoder", {"MatMul": {"unknown": 1}}, "fp32")[0].passed


def test_layernorm_in_half_precision_is_refused(checkpoint: Checkpoint) -> None:
    """The result of a plain `.half()`."""
    plain = copy.deepcopy(checkpoint.model).half()
    graph = kept_export(graph_specs(plain)[1], opset=20)
    histogram = precision_histogram(graph.model.graph)
    assert histogram["LayerNormalization"].keys() == {"float16"}
    results = {gate.gate: gate for gate in precision_gate("text_encoder", histogram, "fp16")}
    assert results["products not in fp16"].passed
    assert not results["delicate nodes in half precision"].passed
    assert results["delicate nodes in half precision"].value == 5


def test_half_precision_leaves_the_original_alone(checkpoint: Checkpoint) -> None:
    before = {name: tensor.clone() for name, tensor in checkpoint.model.state_dict().items()}
    half = half_precision(checkpoint.model)
    assert isinstance(half, LrclrModel)
    assert not half.training
    after = checkpoint.model.state_dict()
    assert all(
        after[name].dtype == tensor.dtype and torch.equal(after[name], tensor) for name, tensor in before.items()
    )
    norms = [module for module in half.modules() if isinstance(module, torch.nn.LayerNorm)]
    assert {norm.weight.dtype for norm in norms} == {torch.float32}
    assert half.visual_projection.weight.dtype == torch.float16


@pytest.mark.parametrize("precision", ["bf16", "int4", "", "FP16"])
def test_no_other_precision_is_pretended(precision: str) -> None:
    with pytest.raises(UsageError, match="Choose fp16, fp32 or int8"):
        Tolerances.for_precision(precision)


@pytest.mark.slow
def test_the_highest_opset_passes_too(
    checkpoint: Checkpoint, fp32_bundle: Path, golden: Golden, tmp_path: Path
) -> None:
    """The image encoder, which has the custom node. The whole bundle is exported with opset 18 elsewhere."""
    bundle = Bundle(fp32_bundle)
    graph = kept_export(graph_specs(checkpoint.model)[0], opset=23)
    graph.save(tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    assert {opset.domain: opset.version for opset in model.opset_import} == {"": 23, "lrclr": 2}
    paths = {name: bundle.graph_path(name) for name in GRAPHS} | {"image_encoder": tmp_path / "model.onnx"}
    model = ModelSpec.of_bundle(bundle)
    results = run_gates(OnnxRuntimeEngine(paths), golden, model, Tolerances.for_precision("fp32"))
    raise_refused(results)
    assert all(isinstance(result, GateResult) for result in results)
