"""The region node over queries and keys selects the same patches as the node over attention maps."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from lrclr.checkpoints import Checkpoint, init_checkpoint, load_checkpoint
from lrclr.errors import ExportError
from lrclr_export.onnx.graphs import graph_specs
from lrclr_export.onnx.precision import half_precision
from lrclr_export.onnx.region_function import OP_TYPE, QK_OP_TYPE
from lrclr_export.plans import BuildOptions, plan_from_onnx

# Private: ONNX Runtime runs the rewritten graph before a plan is built from it.
from lrclr_export.plans._regions import from_queries_and_keys, with_definition

# Private: the gate takes a plan of any graph.
from lrclr_export.repository.build import _fusion_gates
from tests.families.networks import siglip_folder
from tests.kept_exports import kept_export

if TYPE_CHECKING:
    from pathlib import Path

    from lrclr.model import LrclrModel
    from lrclr_export.plans import Plan
    from lrclr_export.profiles import Profile


def _checkpoint(**config: Any) -> Checkpoint:
    vision = {"hidden_size": 128, "num_attention_heads": 2, "num_hidden_layers": 3, "intermediate_size": 64}
    sizes = {"image_size": 64, "patch_size": 16, "projection_dim": 32}
    text = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return init_checkpoint("vit-b-32", vision_config={**vision, **sizes}, text_config=text, projection_dim=32, **config)


@pytest.fixture(scope="module", params=["per_head", "mean"])
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """Path of a half-precision image encoder, and its chains."""
    rollout = request.param
    checkpoint = _checkpoint(region_rollout=rollout, region_top_k=2)
    torch.manual_seed(0)
    for layer in checkpoint.model.vision_model.encoder.layers:
        # Uneven attention, so that the patches differ.
        layer.self_attn.q_proj.weight.data *= 8
    graph = kept_export(graph_specs(half_precision(checkpoint.model))[0], opset=20)
    path = tmp_path_factory.mktemp(rollout) / "model.onnx"
    graph.save(path)
    return path, 1 if rollout == "mean" else 2


def _run(model: onnx.ModelProto, pixels: Any) -> dict[str, Any]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"pixel_values": pixels}), strict=True))


def test_it_selects_what_the_maps_select(encoder: tuple[Path, int]) -> None:
    path, chains = encoder
    pixels = np.random.default_rng(1).normal(size=(3, 3, 64, 64)).astype(np.float32)
    model = onnx.load(path)
    wanted = _run(model, pixels)
    node = from_queries_and_keys(model)
    assert (node.layers, node.nodes, node.head_width, node.top_k, node.mean) == (3, 17, 64, 2, chains == 1)
    assert node.prefix == 1
    (region,) = [one for one in model.graph.node if one.domain == "lrclr"]
    assert region.op_type == QK_OP_TYPE
    assert len(region.input) == 2 * node.layers
    with_definition(model)
    onnx.checker.check_model(model)
    found = _run(model, pixels)
    np.testing.assert_array_equal(found["region_index"], wanted["region_index"])
    assert found["region_index"].shape == (3, 2 * chains)
    np.testing.assert_allclose(found["region_importance"], wanted["region_importance"], rtol=1e-5)
    for name in ("image_embedding", "region_tokens"):
        np.testing.assert_array_equal(found[name], wanted[name])


def test_a_definition_without_attributes_of_a_plugin(encoder: tuple[Path, int]) -> None:
    """Full TensorRT looks for a plugin if a node has these attributes."""
    model = onnx.load(encoder[0])
    with_definition(model)
    (region,) = [one for one in model.graph.node if one.domain == "lrclr"]
    assert region.op_type == OP_TYPE
    assert {one.name for one in region.attribute} == {"top_k", "mean", "prefix"}
    pixels = np.zeros((1, 3, 64, 64), np.float32)
    np.testing.assert_array_equal(
        _run(model, pixels)["region_tokens"], _run(onnx.load(encoder[0]), pixels)["region_tokens"]
    )


def test_the_builder_fuses_the_attention_of_every_layer(encoder: tuple[Path, int]) -> None:
    """With the maps as outputs, only the attention of the last layer is fused."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is for x86-64 Linux")
    path, _ = encoder
    options = BuildOptions("tensorrt-rtx", ("8.9",))
    shape = [2, 3, 64, 64]
    profiles: list[dict[str, Profile]] = [{"pixel_values": {"min": shape, "opt": shape, "max": shape}}]
    maps, pairs = (
        plan_from_onnx(
            path, options, name="image_encoder", profiles=profiles, selects_regions=True, half_precision=half
        )
        for half in (False, True)
    )
    fused = [sum(layer.fused_attention for layer in plan.record.layers) for plan in (maps, pairs)]
    assert fused[0] == 1
    assert fused[1] >= pairs.attention_layers == 3  # type: ignore[operator]


def test_a_graph_that_cannot_be_traced(encoder: tuple[Path, int]) -> None:
    model = onnx.load(encoder[0])
    next(node for node in model.graph.node if node.op_type == "Softmax").op_type = "Hardmax"
    with pytest.raises(ExportError, match="cannot be traced from the region node"):
        from_queries_and_keys(model)
    with pytest.raises(ExportError, match="0 nodes RegionSelect"):
        from_queries_and_keys(onnx.ModelProto())


def _fused(model: LrclrModel, graph: str, path: Path, shape: list[int]) -> Plan:
    """A plan of a tower's graph in half precision."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is for x86-64 Linux")
    (spec,) = [one for one in graph_specs(half_precision(model)) if one.name == graph]
    kept_export(spec, opset=20).save(path)
    return plan_from_onnx(
        path,
        BuildOptions("tensorrt-rtx", ("8.9",)),
        name=graph,
        profiles=[{next(iter(spec.inputs)): {"min": shape, "opt": shape, "max": shape}}],
        selects_regions=graph == "image_encoder",
        half_precision=True,
    )


@pytest.mark.slow
def test_the_builder_fuses_the_attention_of_a_text_tower(tmp_path: Path) -> None:
    text = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    checkpoint = init_checkpoint("tiny", text_config=text)
    plan = _fused(checkpoint.model, "text_encoder", tmp_path / "model.onnx", [4, 16])
    assert plan.attention_layers == 3
    (gate,) = _fusion_gates("text_encoder", plan, "tensorrt-rtx")
    assert (gate.passed, gate.value) == (True, 3)
    (gate,) = _fusion_gates("text_encoder", replace(plan, attention_layers=4), "tensorrt-rtx")
    assert not gate.passed
    # Full TensorRT may name layers differently, and the fusion head's attention need not be fused.
    assert not _fusion_gates("text_encoder", plan, "tensorrt")
    assert not _fusion_gates("fusion_head", plan, "tensorrt-rtx")


@pytest.mark.slow
def test_the_attention_of_a_pooling_head_need_not_be_fused(tmp_path: Path) -> None:
    """A tower without CLS token, with heads of 18: each of its three layers is fused, and its pooling head is not."""
    model = load_checkpoint(siglip_folder(tmp_path / "siglip")).model
    plan = _fused(model, "image_encoder", tmp_path / "model.onnx", [2, 3, 70, 70])
    assert plan.attention_layers == 3
    (gate,) = _fusion_gates("image_encoder", plan, "tensorrt-rtx")
    assert gate.passed
