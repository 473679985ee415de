"""Every gate can refuse: faults are put into real graphs, and the gates find them."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
import pytest
import torch

from benchmarks.gates import faults, graph_edit, output_faults
from lrclr import Bundle
from lrclr.engines import OnnxRuntimeEngine
from lrclr.errors import GateError
from lrclr.inference import ModelSpec, ScoreCalibration
from lrclr.model import select_regions
from lrclr.verification import Tolerances, raise_refused, run_gates
from lrclr_export.onnx.blame import first_bad_layer
from lrclr_export.onnx.graphs import graph_specs
from lrclr_export.repository.golden import golden_from_checkpoint
from tests.kept_exports import kept_export

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from lrclr.bundle import Golden
    from lrclr.checkpoints import Checkpoint
    from lrclr.model import Regions
    from lrclr.verification import GateResult
    from lrclr_export.onnx.onnx_graph import TypedGraph

    Measure = Callable[..., list[GateResult]]

FP32 = Tolerances.for_precision("fp32")
IMAGE, TEXT, FUSION = "image_encoder", "text_encoder", "fusion_head"


@pytest.fixture
def measure(fp32_bundle: Path, golden: Golden, tmp_path: Path) -> Measure:
    """A function that runs all gates on the bundle's graphs, some of them replaced."""
    bundle = Bundle(fp32_bundle)

    def run(*graphs: TypedGraph, against: Golden = golden, **scoring: Any) -> list[GateResult]:
        paths = {graph: bundle.graph_path(graph) for graph in (IMAGE, TEXT, FUSION)}
        for graph in graphs:
            paths[graph.name] = tmp_path / f"{graph.name}.onnx"
            graph.save(paths[graph.name])
        model = replace(ModelSpec.of_bundle(bundle), **scoring)
        return run_gates(OnnxRuntimeEngine(paths), against, model, FP32, bundle.manifest.profiles)

    return run


def refused(results: Sequence[GateResult]) -> set[tuple[str, str]]:
    return {(result.gate, result.subject) for result in results if not result.passed}


# For each fault: the graph, the change, and the gates that must refuse it. Other gates may also refuse.
FAULTS: dict[str, tuple[str, graph_edit.Fault, set[tuple[str, str]]]] = {
    "causal mask lost": (
        TEXT,
        faults.without_causal_mask,
        {
            ("change by tokens after EOT", "text_encoder.text_embedding"),
            ("change by batch and padding", "text_encoder.text_embedding"),
            ("cosine", "text_encoder.text_embedding"),
            ("cosine", "text_encoder.text_tokens"),
        },
    ),
    "EOT pooling lost": (
        TEXT,
        faults.another_eot,
        {
            ("cosine", "text_encoder.text_embedding"),
            ("centred cosine", "text_encoder.text_embedding"),
            ("spread over inputs", "text_encoder.text_embedding"),
        },
    ),
    "GELU for QuickGELU in the image tower": (
        IMAGE,
        faults.gelu_for_quick_gelu,
        {("cosine", "image_encoder.region_tokens"), ("max error", "image_encoder.image_embedding")},
    ),
    "GELU for QuickGELU in the text tower": (
        TEXT,
        faults.gelu_for_quick_gelu,
        {("cosine", "text_encoder.text_tokens"), ("max error", "text_encoder.text_embedding")},
    ),
    "QuickGELU for GELU in the fusion head": (
        FUSION,
        faults.quick_gelu_for_gelu,
        {("absolute error", "fusion_head.local_score")},
    ),
    "LayerNorm with another epsilon": (
        IMAGE,
        faults.epsilon(0.3),
        {("max error", "image_encoder.region_tokens"), ("cosine", "image_encoder.image_embedding")},
    ),
    "LayerNorm of the fusion head with another epsilon": (
        FUSION,
        faults.epsilon(0.3),
        {("absolute error", "fusion_head.region_attention")},
    ),
    "regions picked from the wrong end": (
        IMAGE,
        faults.least_important_regions,
        {
            ("region gap", "image_encoder.region_index"),
            ("max error", "image_encoder.region_importance"),
        },
    ),
    "embedding not of unit length": (
        IMAGE,
        output_faults.times("image_embedding", 1.01),
        {
            ("max error", "image_encoder.image_embedding"),
            ("absolute error", "probabilities"),
        },
    ),
    "text embedding not of unit length": (
        TEXT,
        output_faults.times("text_embedding", 0.99),
        {("max error", "text_encoder.text_embedding"), ("absolute error", "probabilities")},
    ),
    "text tokens in another scale": (
        TEXT,
        output_faults.times("text_tokens", 1.01),
        {("max error", "text_encoder.text_tokens")},
    ),
    "region tokens shifted": (
        IMAGE,
        output_faults.plus("region_tokens", 0.05),
        {("max error", "image_encoder.region_tokens"), ("cosine", "image_encoder.region_tokens")},
    ),
    "local score shifted": (
        FUSION,
        output_faults.plus("local_score", 0.001),
        {("absolute error", "fusion_head.local_score")},
    ),
    "region attention scaled": (
        FUSION,
        output_faults.times("region_attention", 1.01),
        {("absolute error", "fusion_head.region_attention")},
    ),
    "batch-mates mixed in": (
        IMAGE,
        output_faults.blend_of_batch("image_embedding", 0.2),
        {("change by batch and padding", "image_encoder.image_embedding")},
    ),
    "importance depends on the batch": (
        IMAGE,
        output_faults.by_size("region_importance", 0, 8, 0.01),
        {
            ("change by batch and padding", "image_encoder.region_importance"),
            ("max error", "image_encoder.region_importance"),
        },
    ),
    "picks depend on the batch": (
        IMAGE,
        output_faults.by_size("region_index", 0, 8, 1),
        {("region gap", "image_encoder.region_index")},
    ),
    # So little that the absolute error of any attention is within its limit.
    "attention depends on the number of prompts": (
        FUSION,
        output_faults.only_at(1, 0, "text_tokens", "region_attention", share=1.2e-4),
        {("change by batch and padding", "fusion_head.region_attention")},
    ),
    "embedding depends on padding": (
        TEXT,
        output_faults.by_size("text_embedding", 1, 77, 0.01),
        {
            ("change by batch and padding", "text_encoder.text_embedding"),
            ("change by tokens after EOT", "text_encoder.text_embedding"),
            ("cosine", "text_encoder.text_embedding"),
            ("centred cosine", "text_encoder.text_embedding"),
            ("max error", "text_encoder.text_embedding"),
            # The classifier encodes prompts in groups of similar lengths.
            ("absolute error", "probabilities"),
        },
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_fault_is_found(measure: Measure, fp32_graphs: Mapping[str, TypedGraph], fault: str) -> None:
    graph, change, expected = FAULTS[fault]
    results = measure(graph_edit.with_faults(fp32_graphs[graph], change))
    assert expected <= refused(results)
    with pytest.raises(GateError, match="the gates refused"):
        raise_refused(results)


@pytest.mark.parametrize(
    "fault",
    [
        "importance depends on the batch",
        "picks depend on the batch",
        "attention depends on the number of prompts",
        "embedding depends on padding",
    ],
)
def test_a_fault_for_other_shapes_is_found_by_the_gate_of_shapes_only(
    measure: Measure, fp32_graphs: Mapping[str, TypedGraph], fault: str
) -> None:
    graph, change, expected = FAULTS[fault]
    assert refused(measure(graph_edit.with_faults(fp32_graphs[graph], change))) == expected


def test_without_a_fault_every_gate_passes(measure: Measure, fp32_graphs: Mapping[str, TypedGraph]) -> None:
    results = measure(*(graph_edit.with_faults(graph) for graph in fp32_graphs.values()))
    assert refused(results) == set()
    raise_refused(results)


def test_every_gate_has_a_fault_that_it_refuses(fp32_bundle: Path) -> None:
    shown = {gate for _, _, expected in FAULTS.values() for gate, _ in expected}
    measured = {gate["gate"] for gate in Bundle(fp32_bundle).manifest.gates if "." in gate["subject"]}
    assert measured - shown == {"non-finite values"}


@pytest.mark.parametrize("graph", [IMAGE, TEXT, FUSION])
def test_nan_in_the_weights_is_found_and_located(
    measure: Measure, checkpoint: Checkpoint, golden: Golden, fp32_graphs: Mapping[str, TypedGraph], graph: str
) -> None:
    layer = {
        IMAGE: "vision_model.encoder.layers.1",
        TEXT: "text_model.encoder.layers.0",
        FUSION: "fusion_head.blocks.1.mlp",
    }[graph]
    bad = graph_edit.with_faults(fp32_graphs[graph], faults.nan_weights(fp32_graphs[graph].layers[layer]))
    found = refused(measure(bad))
    assert found
    assert {gate for gate, _ in found} == {"non-finite values"}
    assert {subject.partition(".")[0] for _, subject in found} == {graph}
    assert (first_bad_layer(checkpoint.model, bad, golden, cosine=FP32.cosine) or "").endswith(f"{layer} (cosine nan)")


@pytest.mark.parametrize(
    "changed",
    [
        {"calibration": ScoreCalibration(scale=1.01)},
        {"calibration": ScoreCalibration(bias=0.01)},
        {"calibration": ScoreCalibration(findings={"Edema": (1.01, 0.0)})},
        {"alpha": 0.5},
        {"alpha": 0.0},
    ],
)
def test_probabilities_are_compared_with_pytorchs(measure: Measure, changed: dict[str, Any]) -> None:
    """Only the scoring is wrong, as in a wrong manifest."""
    assert refused(measure(**changed)) == {("absolute error", "probabilities")}


def test_a_score_that_is_not_finite_is_refused(measure: Measure, fp32_graphs: Mapping[str, TypedGraph]) -> None:
    """The tokens of the image graph are finite, but too large for the fusion head."""
    results = measure(graph_edit.with_faults(fp32_graphs[IMAGE], output_faults.times("region_tokens", 1e30)))
    assert ("absolute error", "probabilities") in refused(results)


def with_another_selection(
    golden: Golden, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, loss: float
) -> Golden:
    """PyTorch's answers for another selection of patches in image 2, head 1.

    Its second choice is a third patch, which is slightly better than the graph's second choice. `loss` is the
    difference, relative to the importance of the best patch.
    """
    head, k = 1, 2
    slot = head * k + 1
    first, second, outsider = np.argsort(-golden["rollout"][2, head])[: k + 1].tolist()
    assert golden["region_index"][2, slot] == second

    def select(maps: Sequence[torch.Tensor], tokens: torch.Tensor, top_k: int, mean: bool, prefix: int) -> Regions:
        regions = select_regions(maps, tokens, top_k, mean, prefix)
        index, rows = regions.index.clone(), regions.tokens.clone()
        index[2, slot], rows[2, 1 + slot] = outsider, tokens[2, 1 + outsider]
        return regions._replace(index=index, tokens=rows)

    monkeypatch.setattr("lrclr_export.repository.golden.select_regions", select)
    changed = golden_from_checkpoint(checkpoint)
    rollout, importance = changed["rollout"].copy(), changed["region_importance"].copy()
    best = rollout[2, head, first]
    rollout[2, head, outsider] = importance[2, slot] = rollout[2, head, second] + loss * best
    assert rollout[2, head].argmax() == first
    return replace(changed, tensors={**changed.tensors, "rollout": rollout, "region_importance": importance})


def test_a_swap_of_nearly_equal_patches_passes(
    measure: Measure, golden: Golden, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = with_another_selection(golden, checkpoint, monkeypatch, 5e-5)
    # The other patch has another token and another local score. Other gates must allow for this.
    assert np.abs(changed["local_score"] - golden["local_score"]).max() > 10 * FP32.score_error
    results = measure(against=changed)
    assert refused(results) == set()
    (gap,) = [result for result in results if result.gate == "region gap"]
    assert gap.value == pytest.approx(5e-5, rel=0.1)
    assert gap.note == "96.9% of the picks are PyTorch's"


def test_a_swap_of_unequal_patches_is_refused(
    measure: Measure, golden: Golden, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = with_another_selection(golden, checkpoint, monkeypatch, 0.02)
    found = refused(measure(against=changed))
    assert ("region gap", "image_encoder.region_index") in found


def test_collapsed_embeddings_are_refused_although_the_plain_cosine_passes(
    measure: Measure, checkpoint: Checkpoint
) -> None:
    """If embeddings nearly coincide, as with random weights, a graph that ignores the image has a good cosine."""
    model = copy.deepcopy(checkpoint.model)
    with torch.no_grad():
        model.vision_model.post_layernorm.bias += 1000 * torch.randn(128, generator=torch.Generator().manual_seed(0))
    golden = golden_from_checkpoint(replace(checkpoint, model=model))
    graph = kept_export(graph_specs(model)[0], opset=20)
    collapsed = graph_edit.with_faults(graph, faults.without_scale(graph.layers["vision_model.post_layernorm"]))
    # With a bias this large, float32 itself is inexact, so only the gates of this embedding are checked.
    embedding = "image_encoder.image_embedding"
    intact, broken = (
        {result.gate: result for result in measure(each, against=golden) if result.subject == embedding}
        for each in (graph, collapsed)
    )
    assert broken["cosine"].passed
    assert broken["max error"].value < 0.01
    for gate in ("centred cosine", "spread over inputs"):
        assert not broken[gate].passed
        assert intact[gate].value > 0.99
    assert broken["spread over inputs"].value < 1e-3


def layers(graph: str) -> list[str]:
    """The layers of the tiny network's graphs, as an explicit list."""
    if graph == IMAGE:
        last = ("layer_norm1", "self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj", "self_attn.out_proj")
        layers = ["0", "1", *(f"2.{part}" for part in (*last, "layer_norm2", "mlp"))]
        whole = ["embeddings", "pre_layrnorm", *(f"encoder.layers.{layer}" for layer in layers), "post_layernorm"]
        return [*(f"vision_model.{layer}" for layer in whole), "visual_projection"]
    if graph == TEXT:
        whole = ["embeddings", "encoder.layers.0", "encoder.layers.1", "final_layer_norm"]
        return [*(f"text_model.{layer}" for layer in whole), "text_projection"]
    parts = ("attention_norm", "query", "key", "value", "output", "mlp_norm", "mlp")
    blocks = [f"blocks.{block}.{part}" for block in (0, 1) for part in parts]
    # The last block uses the weights of key and value without computing the outputs of these layers.
    blocks = [name for name in blocks if name not in {"blocks.1.key", "blocks.1.value"}]
    ends = ["image_norm", "image_projection", "text_projection", "image_head", "text_head"]
    return [f"fusion_head.{layer}" for layer in (*ends, *blocks)]


@pytest.mark.parametrize("graph", [IMAGE, TEXT, FUSION])
def test_the_graph_records_the_position_of_its_layers(fp32_graphs: Mapping[str, TypedGraph], graph: str) -> None:
    assert sorted(fp32_graphs[graph].layers) == sorted(layers(graph))


@pytest.mark.parametrize(
    ("graph", "layer"), [(graph, layer) for graph in (IMAGE, TEXT, FUSION) for layer in layers(graph)]
)
def test_the_first_bad_layer_is_named(
    checkpoint: Checkpoint, golden: Golden, fp32_graphs: Mapping[str, TypedGraph], graph: str, layer: str
) -> None:
    intact = fp32_graphs[graph]
    bad = graph_edit.with_faults(intact, faults.noisy_weights(intact.layers[layer]))
    found = first_bad_layer(checkpoint.model, bad, golden, cosine=FP32.cosine) or ""
    assert found.startswith(f"the first bad layer of {graph} is {layer} (cosine ")


@pytest.mark.parametrize("graph", [IMAGE, TEXT, FUSION])
def test_no_layer_is_named_without_a_fault(
    checkpoint: Checkpoint, golden: Golden, fp32_graphs: Mapping[str, TypedGraph], graph: str
) -> None:
    assert first_bad_layer(checkpoint.model, fp32_graphs[graph], golden, cosine=FP32.cosine) is None


def test_no_layer_is_named_for_another_selection(
    checkpoint: Checkpoint, golden: Golden, fp32_graphs: Mapping[str, TypedGraph]
) -> None:
    bad = graph_edit.with_faults(fp32_graphs[IMAGE], faults.least_important_regions)
    assert first_bad_layer(checkpoint.model, bad, golden, cosine=FP32.cosine) is None


@pytest.mark.parametrize("graph", [IMAGE, TEXT, FUSION])
def test_the_search_for_the_bad_layer_does_not_change_the_graph(
    checkpoint: Checkpoint, golden: Golden, fp32_graphs: Mapping[str, TypedGraph], graph: str
) -> None:
    """The search temporarily makes every layer an output."""
    copied = graph_edit.with_faults(fp32_graphs[graph])
    before = ir.to_proto(copied.model).SerializeToString(deterministic=True)
    first_bad_layer(checkpoint.model, copied, golden, cosine=FP32.cosine)
    assert ir.to_proto(copied.model).SerializeToString(deterministic=True) == before
