"""The contract of the graphs: names, types, dynamic axes, and the region node."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

from lrclr.bundle import GRAPHS, Bundle
from lrclr.engines import OnnxRuntimeEngine
from lrclr.errors import EngineError

if TYPE_CHECKING:
    from pathlib import Path

    from lrclr.bundle import Golden

FLOAT, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
# Two heads select two patches each. 32 is the width of the tiny projection, 128 and 64 those of its towers.
CONTRACT: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "image_encoder": (
        {"pixel_values": (FLOAT, ["batch", 3, 112, 112])},
        {
            "image_embedding": (FLOAT, ["batch", 32]),
            "region_tokens": (FLOAT, ["batch", 5, 128]),
            "region_index": (INT64, ["batch", 4]),
            "region_importance": (FLOAT, ["batch", 4]),
        },
    ),
    "text_encoder": (
        {"input_ids": (INT64, ["prompts", "tokens"])},
        {"text_embedding": (FLOAT, ["prompts", 32]), "text_tokens": (FLOAT, ["prompts", "tokens", 64])},
    ),
    "fusion_head": (
        {
            "region_tokens": (FLOAT, ["batch", 5, 128]),
            "text_tokens": (FLOAT, ["prompts", "tokens", 64]),
            "text_mask": (INT64, ["prompts", "tokens"]),
        },
        {"local_score": (FLOAT, ["batch", "prompts"]), "region_attention": (FLOAT, ["batch", "prompts", 4])},
    ),
}


@pytest.fixture(scope="session", params=["fp32", "fp16"])
def bundle(request: pytest.FixtureRequest) -> Bundle:
    path: Path = request.getfixturevalue(f"{request.param}_bundle")
    return Bundle(path)


@pytest.fixture(scope="session")
def engine(bundle: Bundle) -> OnnxRuntimeEngine:
    return OnnxRuntimeEngine(bundle)


def signature(values: Any) -> dict[str, Any]:
    return {
        value.name: (
            value.type.tensor_type.elem_type,
            [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim],
        )
        for value in values
    }


@pytest.mark.parametrize("graph", GRAPHS)
def test_names_types_and_axes_are_the_contracts(bundle: Bundle, graph: str) -> None:
    model = onnx.load(bundle.graph_path(graph))
    onnx.checker.check_model(model, full_check=True)
    assert (signature(model.graph.input), signature(model.graph.output)) == CONTRACT[graph]


@pytest.mark.parametrize("graph", GRAPHS)
def test_the_manifest_repeats_the_signature(bundle: Bundle, graph: str) -> None:
    names = {FLOAT: "FLOAT", INT64: "INT64"}
    entry = bundle.manifest.graphs[graph]
    for described, contract in zip((entry["inputs"], entry["outputs"]), CONTRACT[graph], strict=True):
        assert described == {name: {"type": names[t], "shape": dims} for name, (t, dims) in contract.items()}


@pytest.mark.parametrize("batch", [1, 3, 33])
def test_any_number_of_images(engine: OnnxRuntimeEngine, golden: Golden, batch: int) -> None:
    rows = np.arange(batch) % len(golden["pixel_values"])
    outputs = engine.run("image_encoder", {"pixel_values": golden["pixel_values"][rows]})
    assert [outputs[name].shape for name in outputs] == [(batch, 32), (batch, 5, 128), (batch, 4), (batch, 4)]
    np.testing.assert_allclose(outputs["image_embedding"], golden["image_embedding"][rows], atol=2e-3)
    np.testing.assert_allclose(np.linalg.norm(outputs["image_embedding"], axis=1), 1.0, atol=1e-5)


@pytest.mark.parametrize("prompts", [1, 40])
@pytest.mark.parametrize("tokens", [2, 3, 16, 77])
def test_any_number_of_prompts_of_any_length(engine: OnnxRuntimeEngine, prompts: int, tokens: int) -> None:
    ids = np.random.default_rng(tokens).integers(1, 400, (prompts, tokens))
    ids[:, -1] = 49407
    outputs = engine.run("text_encoder", {"input_ids": ids})
    assert [outputs[name].shape for name in outputs] == [(prompts, 32), (prompts, tokens, 64)]
    np.testing.assert_allclose(np.linalg.norm(outputs["text_embedding"], axis=1), 1.0, atol=1e-5)


@pytest.mark.parametrize(("batch", "prompts", "tokens"), [(1, 1, 2), (3, 40, 77), (33, 2, 9), (1, 40, 20), (33, 1, 77)])
def test_any_number_of_pairs(engine: OnnxRuntimeEngine, batch: int, prompts: int, tokens: int) -> None:
    rng = np.random.default_rng(batch)
    mask = (np.arange(tokens) < rng.integers(1, tokens + 1, (prompts, 1))).astype(np.int64)
    outputs = engine.run(
        "fusion_head",
        {
            "region_tokens": rng.normal(size=(batch, 5, 128)).astype(np.float32),
            "text_tokens": rng.normal(size=(prompts, tokens, 64)).astype(np.float32),
            "text_mask": mask,
        },
    )
    assert outputs["local_score"].shape == (batch, prompts)
    assert np.abs(outputs["local_score"]).max() <= 1 + 1e-5
    np.testing.assert_allclose(outputs["region_attention"].sum(-1), np.ones((batch, prompts)), atol=1e-5)


def test_a_prompt_longer_than_the_context_is_refused_not_cut(engine: OnnxRuntimeEngine) -> None:
    with pytest.raises(EngineError, match="could not run text_encoder"):
        engine.run("text_encoder", {"input_ids": np.full((1, 78), 5)})


def test_the_wrong_type_is_refused(engine: OnnxRuntimeEngine, golden: Golden) -> None:
    with pytest.raises(EngineError, match="could not run image_encoder"):
        engine.run("image_encoder", {"pixel_values": golden["pixel_values"].astype(np.float16)})


def test_region_selection_is_one_node_that_a_plugin_can_take(bundle: Bundle) -> None:
    model = onnx.load(bundle.graph_path("image_encoder"))
    (node,) = [node for node in model.graph.node if node.domain == "lrclr"]
    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    assert node.op_type == "RegionSelect"
    assert attributes == {"top_k": 2, "mean": 0, "plugin_namespace": b"lrclr", "plugin_version": b"1", "prefix": 1}
    assert len(node.input) == 4  # tokens, the row of CLS in the last of three layers, and the maps of the other layers
    (function,) = model.functions
    assert (function.domain, function.name) == ("lrclr", "RegionSelect")
    assert {opset.domain: opset.version for opset in model.opset_import} == {"": 20, "lrclr": 2}
    # The function body has standard operators only, so that any runtime can run it.
    assert {inner.domain for inner in function.node} == {""}


@pytest.mark.parametrize("graph", ["text_encoder", "fusion_head"])
def test_the_other_graphs_are_standard_onnx(bundle: Bundle, graph: str) -> None:
    model = onnx.load(bundle.graph_path(graph))
    assert not model.functions
    assert {node.domain for node in model.graph.node} == {""}
