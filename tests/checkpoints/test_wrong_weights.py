"""Weights that do not fit, and values that are not weights, are refused. The error names everything that is wrong."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lrclr.checkpoints import load_checkpoint
from tests.checkpoints.spoiling import SMALL, refusal, saved

if TYPE_CHECKING:
    from pathlib import Path

    from tests.checkpoints.conftest import OpenAiFactory

State = dict[str, Tensor]


def test_every_wrong_key_is_named_in_one_error(state: State, tmp_path: Path) -> None:
    del state["visual.ln_post.bias"]
    del state["transformer.resblocks.1.mlp.c_fc.weight"]
    state["visual.extra"] = torch.zeros(1)
    state["transformer.resblocks.0.attn.q_norm.weight"] = torch.zeros(1)
    state["visual.ln_pre.weight"] = torch.zeros(7)
    state["visual.transformer.resblocks.1.attn.in_proj_bias"] = torch.zeros(128)
    said = refusal(saved(state, tmp_path / "clip.pt"), SMALL)
    for words in (
        "missing: ",
        "vision_model.post_layernorm.bias",
        "text_model.encoder.layers.1.mlp.fc1.weight",
        "unexpected: ",
        "visual.extra",
        "transformer.resblocks.0.attn.q_norm.weight",
        "visual.transformer.resblocks.1.attn.in_proj_bias",
        "misshapen: ",
        "vision_model.pre_layrnorm.weight is [7], expected [128]",
    ):
        assert words in said


def test_a_long_list_of_keys_is_cut(state: State, tmp_path: Path) -> None:
    state |= {f"extra.{number:02}": torch.zeros(1) for number in range(20)}
    said = refusal(saved(state, tmp_path / "clip.pt"), SMALL)
    assert "extra.05 and 14 more" in said
    assert len(said) < 600


def test_a_folder_names_its_wrong_keys_too(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["fusion_head.image_norm.bias"]
    weights["fusion_head.modality_embedding"] = torch.zeros(5, 32)
    weights["head.bias"] = torch.zeros(3)
    save_file(weights, folder / "model.safetensors")
    said = refusal(folder)
    assert "missing: fusion_head.image_norm.bias" in said
    assert "unexpected: head.bias" in said
    assert "misshapen: fusion_head.modality_embedding is [5, 32], expected [4, 32]" in said


@pytest.mark.parametrize(
    "name",
    [
        "visual.conv1.weight",
        "visual.positional_embedding",
        "visual.proj",
        "positional_embedding",
        "token_embedding.weight",
        "text_projection",
    ],
)
@pytest.mark.parametrize("shape", [None, (), (3,), (5, 5), (0, 0), (2, 3, 4), (1, 2, 3, 4, 5), (0, 3, 0, 0), (1, 1)])
def test_a_tensor_that_tells_a_size_is_wrong(
    state: State, tmp_path: Path, name: str, shape: tuple[int, ...] | None
) -> None:
    del state[name]
    if shape is not None:
        state[name] = torch.zeros(shape)
    refusal(saved(state, tmp_path / "clip.pt"), SMALL)


def test_a_resnet(tmp_path: Path) -> None:
    said = refusal(saved({"visual.layer1.0.conv1.weight": torch.zeros(1)}, tmp_path / "rn50.pt"), SMALL)
    assert "ResNet CLIP" in said


def test_another_vocabulary(openai_clip: OpenAiFactory, tmp_path: Path) -> None:
    said = refusal(saved(openai_clip(vocabulary=1000).state_dict(), tmp_path / "clip.pt"), SMALL)
    assert "vocabulary of 1000" in said


def test_a_width_that_the_heads_do_not_divide(state: State, tmp_path: Path) -> None:
    said = refusal(saved(state, tmp_path / "clip.pt"), (3, 1))
    assert "image tower" in said
    assert "cannot have 3 attention heads: its width 128 is not a multiple" in said


def test_a_layer_number_without_end(state: State, tmp_path: Path) -> None:
    state["transformer.resblocks.999999999.ln_1.bias"] = torch.zeros(64)
    refusal(saved(state, tmp_path / "clip.pt"), SMALL)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_weights_that_are_not_finite(state: State, tmp_path: Path, value: float, dtype: torch.dtype) -> None:
    spoilt = state["visual.proj"].to(dtype, copy=True)
    spoilt[3, 4] = value
    said = refusal(saved(state | {"visual.proj": spoilt}, tmp_path / "clip.pt"), SMALL)
    assert "NaN or infinity in: visual_projection.weight" in said


def test_large_weights_are_no_infinite_ones(state: State, tmp_path: Path) -> None:
    # Their sum overflows, each of them does not.
    load_checkpoint(saved(state | {"visual.proj": torch.full((128, 24), 3e38)}, tmp_path / "clip.pt"), heads=SMALL)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.bool, torch.complex64])
def test_weights_that_are_no_fractions(state: State, tmp_path: Path, dtype: torch.dtype) -> None:
    said = refusal(saved(state | {"visual.ln_pre.bias": torch.ones(128, dtype=dtype)}, tmp_path / "clip.pt"), SMALL)
    assert "not floating point" in said
    assert "vision_model.pre_layrnorm.bias" in said


def test_tensors_that_hold_no_numbers_of_their_own(state: State, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        strange = {
            "sparse": torch.eye(128).to_sparse(),
            "meta": torch.zeros(128, device="meta"),
            "repeated": torch.zeros(1).expand(10**12),
            "quantised": torch.quantize_per_tensor(torch.ones(128), 0.1, 0, torch.qint8),
            "nested": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
            "text": "hello",
            "none": None,
        }
        for kind, value in strange.items():
            refusal(saved(state | {"visual.ln_pre.bias": value}, tmp_path / f"{kind}.pt"), SMALL)
