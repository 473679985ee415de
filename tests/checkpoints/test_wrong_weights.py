"""Weights that do not fit, and values that are not weights, are refused. The error names every problem."""

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
    message = refusal(saved(state, tmp_path / "clip.pt"), SMALL)
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
        assert words in message


def test_a_long_list_of_keys_is_cut(state: State, tmp_path: Path) -> None:
    state |= {f"extra.{number:02}": torch.zeros(1) for number in range(20)}
    message = refusal(saved(state, tmp_path / "clip.pt"), SMALL)
    assert "extra.05 and 14 more" in message
    assert len(message) < 600


def test_wrong_keys_of_a_folder_are_named(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["fusion_head.image_norm.bias"]
    weights["fusion_head.modality_embedding"] = torch.zeros(5, 32)
    weights["head.bias"] = torch.zeros(3)
    save_file(weights, folder / "model.safetensors")
    message = refusal(folder)
    assert "missing: fusion_head.image_norm.bias" in message
    assert "unexpected: head.bias" in message
    assert "misshapen: fusion_head.modality_embedding is [5, 32], expected [4, 32]" in message


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
def test_a_wrong_tensor_that_determines_a_size_is_named(
    state: State, tmp_path: Path, name: str, shape: tuple[int, ...] | None
) -> None:
    del state[name]
    if shape is not None:
        state[name] = torch.zeros(shape)
    refusal(saved(state, tmp_path / "clip.pt"), SMALL)


def test_a_resnet_is_refused(tmp_path: Path) -> None:
    message = refusal(saved({"visual.layer1.0.conv1.weight": torch.zeros(1)}, tmp_path / "rn50.pt"), SMALL)
    assert "ResNet CLIP" in message


def test_another_vocabulary_is_refused(openai_clip: OpenAiFactory, tmp_path: Path) -> None:
    message = refusal(saved(openai_clip(vocabulary=1000).state_dict(), tmp_path / "clip.pt"), SMALL)
    assert "vocabulary of 1000" in message


def test_a_width_that_the_heads_do_not_divide_is_refused(state: State, tmp_path: Path) -> None:
    message = refusal(saved(state, tmp_path / "clip.pt"), (3, 1))
    assert "image tower" in message
    assert "cannot have 3 attention heads: its width 128 is not a multiple" in message


def test_a_huge_layer_number_is_refused(state: State, tmp_path: Path) -> None:
    state["transformer.resblocks.999999999.ln_1.bias"] = torch.zeros(64)
    refusal(saved(state, tmp_path / "clip.pt"), SMALL)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_weights_that_are_not_finite_are_refused(
    state: State, tmp_path: Path, value: float, dtype: torch.dtype
) -> None:
    damaged = state["visual.proj"].to(dtype, copy=True)
    damaged[3, 4] = value
    message = refusal(saved(state | {"visual.proj": damaged}, tmp_path / "clip.pt"), SMALL)
    assert "NaN or infinity in: visual_projection.weight" in message


def test_large_weights_are_not_taken_for_infinite_ones(state: State, tmp_path: Path) -> None:
    # Their sum overflows, but each value is finite.
    load_checkpoint(saved(state | {"visual.proj": torch.full((128, 24), 3e38)}, tmp_path / "clip.pt"), heads=SMALL)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.bool, torch.complex64])
def test_integer_weights_are_refused(state: State, tmp_path: Path, dtype: torch.dtype) -> None:
    message = refusal(saved(state | {"visual.ln_pre.bias": torch.ones(128, dtype=dtype)}, tmp_path / "clip.pt"), SMALL)
    assert "not floating point" in message
    assert "vision_model.pre_layrnorm.bias" in message


def test_tensors_without_stored_numbers_are_refused(state: State, tmp_path: Path) -> None:
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
