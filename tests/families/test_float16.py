"""Networks with outlier channels in float16, and what an export measures before it chooses float16."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from lrclr.bundle import Bundle
from lrclr.checkpoints import load_checkpoint
from lrclr.errors import GateError
from lrclr.model.attention import attend
from lrclr_export import ExportOptions, export_bundle
from lrclr_export.onnx.activations import largest_activations, require_half_precision
from tests.families import networks

if TYPE_CHECKING:
    from pathlib import Path

    from lrclr.checkpoints import Checkpoint
    from lrclr.model import LrclrModel


def outlier_checkpoint(folder: Path, size: float) -> Checkpoint:
    networks.siglip_folder(folder)
    networks.saved(networks.with_outliers(networks.siglip(), size), folder)
    return load_checkpoint(folder)


class _HalfNorm(nn.LayerNorm):
    """LayerNorm whose squares and mean are in half precision, as a graph in parts has it."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        centred = input - input.mean(-1, keepdim=True)
        variance = (centred * centred).mean(-1, keepdim=True)
        return centred * torch.rsqrt(variance + self.eps) * self.weight + self.bias


def naive_half(model: LrclrModel) -> LrclrModel:
    """Everything in half precision, LayerNorms too."""
    half: LrclrModel = copy.deepcopy(model).half()
    for name, module in list(half.named_modules()):
        if isinstance(module, nn.LayerNorm):
            made = _HalfNorm(module.normalized_shape, eps=max(module.eps, 1e-7)).half()
            made.load_state_dict(module.state_dict())
            parent, _, child = name.rpartition(".")
            setattr(half.get_submodule(parent), child, made)
    half.eval()
    return half


@pytest.mark.parametrize(("heads", "exact"), [(64, True), (16, True), (32, True), (72, True), (80, True)])
def test_the_scale_of_attention_rounds_nothing(heads: int, exact: bool) -> None:
    """The query is scaled before the product, which gives the same bits as a multiplication after it."""
    generator = torch.Generator().manual_seed(heads)
    query, key, value = (torch.randn(2, 3, 9, heads, generator=generator) * 3 for _ in range(3))
    scaling = heads**-0.5
    wanted = (query @ key.transpose(-1, -2) * scaling).softmax(-1)
    assert torch.equal(attend(query, key, value, None, scaling)[1], wanted) is exact


def test_a_product_that_overflows_in_half_precision_is_scaled_first() -> None:
    query = torch.full((1, 1, 4, 64), 60.0).half()
    key = torch.full((1, 1, 4, 64), 60.0).half()
    assert torch.isinf(query @ key.transpose(-1, -2)).all()
    _, probabilities = attend(query, key, key, None, 64**-0.5)
    torch.testing.assert_close(probabilities, torch.full((1, 1, 4, 4), 0.25))


def test_the_largest_activations_are_measured_by_layer(tmp_path: Path) -> None:
    checkpoint = outlier_checkpoint(tmp_path, 3000.0)
    ids = checkpoint.tokenizer.encode(["edema"]).input_ids
    pixels = torch.randn(2, 3, 70, 70, generator=torch.Generator().manual_seed(0)).numpy()
    found = largest_activations(checkpoint.model, pixels, ids)
    assert list(found) == ["image_encoder", "text_encoder"]
    assert list(found["image_encoder"]) == [f"vision_model.encoder.layers.{number}" for number in range(3)]
    assert all(2900 < value < 3200 for value in found["image_encoder"].values())
    assert max(found["text_encoder"].values()) < 100
    require_half_precision(found)
    found["image_encoder"]["vision_model.encoder.layers.1"] = 16377.0
    with pytest.raises(GateError, match=r"vision_model\.encoder\.layers\.1 reaches 16377 .*Export with --fp32"):
        require_half_precision(found)
    for wrong in (float("nan"), float("inf")):
        found["image_encoder"]["vision_model.encoder.layers.1"] = wrong
        with pytest.raises(GateError, match="float16 cannot hold"):
            require_half_precision(found)


@pytest.mark.slow
def test_outlier_channels_come_out_right_and_a_naive_half_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Squares above 256 overflow in half precision; the variance is infinite, and the result finite and wrong."""
    checkpoint = outlier_checkpoint(tmp_path / "checkpoint", 400.0)
    # Scores of this network are multiplied by 10 before the sigmoid.
    options = ExportOptions("fp16", max_batch=4, tolerances={"probability_error": 5e-3})
    bundle = export_bundle(checkpoint, tmp_path / "bundle", options)
    largest = bundle.manifest.graphs["image_encoder"]["largest_activations"]
    assert all(390 < value < 450 for value in largest.values())
    assert all(gate["passed"] for gate in Bundle(tmp_path / "bundle").manifest.gates)

    seen: list[Any] = []
    monkeypatch.setattr("lrclr_export.repository.pipeline.half_precision", naive_half)
    monkeypatch.setattr("lrclr_export.repository.pipeline.raise_refused", lambda results, **_: seen.extend(results))
    export_bundle(checkpoint, tmp_path / "naive", options)
    refused = {(gate.gate, gate.subject): gate.value for gate in seen if not gate.passed}
    # ONNX Runtime computes halves in float32 on a CPU, so that the types tell here and not the values.
    assert ("delicate nodes in half precision", "image_encoder") in refused


@pytest.mark.slow
def test_a_network_beyond_float16_is_refused_before_it_is_exported(tmp_path: Path) -> None:
    checkpoint = outlier_checkpoint(tmp_path / "checkpoint", 20_000.0)
    with pytest.raises(GateError, match="float16 cannot hold what image_encoder computes"):
        export_bundle(checkpoint, tmp_path / "bundle", ExportOptions("fp16"))
    assert not (tmp_path / "bundle").exists()


def test_manifests_say_it_in_json(tmp_path: Path) -> None:
    checkpoint = outlier_checkpoint(tmp_path, 10.0)
    ids = checkpoint.tokenizer.encode(["edema"]).input_ids
    pixels = torch.zeros(1, 3, 70, 70).numpy()
    json.dumps(largest_activations(checkpoint.model, pixels, ids), allow_nan=False)
