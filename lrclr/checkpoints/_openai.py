"""State dicts under OpenAI CLIP's names, as CheXzero and many others publish them."""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from lrclr.checkpoints._archive import entries_of
from lrclr.checkpoints._state import is_dense
from lrclr.errors import CheckpointError, UsageError
from lrclr.model import LrclrConfig

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

_HEAD_WIDTH = 64  # of every CLIP that OpenAI published; a state dict does not tell
_BOOKKEEPING = frozenset({"input_resolution", "context_length", "vocab_size"})
_DERIVED = "attn_mask"  # some archives keep the causal mask, which is rebuilt here
_BLOCK = re.compile(r"^(visual\.)?transformer\.resblocks\.(\d+)\.(.+)$")
_IN_BLOCK = {
    "attn.out_proj.": "self_attn.out_proj.",
    "ln_1.": "layer_norm1.",
    "ln_2.": "layer_norm2.",
    "mlp.c_fc.": "mlp.fc1.",
    "mlp.c_proj.": "mlp.fc2.",
}
_OUTSIDE = {
    "logit_scale": "logit_scale",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
}
# OpenAI multiplies these from the right.
_TRANSPOSED = {"text_projection": "text_projection.weight", "visual.proj": "visual_projection.weight"}
_SIZES = (
    "visual.conv1.weight",
    "visual.positional_embedding",
    "visual.proj",
    "positional_embedding",
    "token_embedding.weight",
    "ln_final.weight",
    "text_projection",
)


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``torch.save`` file, read without running anything in it."""
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries_of(path)):
        # torch.save compresses nothing; what inflates could inflate without end.
        raise CheckpointError(f"{path} is not a file of weights", why="it is a compressed archive")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:
        # Damaged bytes make torch raise nearly anything.
        raise CheckpointError(
            f"{path} is not a file of weights",
            why="it is truncated, damaged, of another format, or holds Python objects that loading would run",
            fix="Expected what torch.save(model.state_dict(), path) writes.",
        ) from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{path} holds no state dict", why=f"it holds a {type(content).__name__}")
    strangers = sorted(str(key) for key, value in content.items() if not is_dense(value))
    if strangers:
        raise CheckpointError(f"{path} holds no state dict", why=f"not plain tensors: {', '.join(strangers[:6])}")
    return {str(key).removeprefix("module."): value for key, value in content.items()}


def convert(state: Mapping[str, Tensor], path: Path) -> tuple[LrclrConfig, dict[str, Tensor]]:
    """Infer the configuration from the shapes, and give every tensor `LrclrModel`'s name."""
    if any(key.startswith("visual.layer1.") for key in state):
        raise CheckpointError(
            f"{path} is a ResNet CLIP", why="regions are picked from a Vision Transformer's attention"
        )
    absent = [key for key in _SIZES if key not in state]
    if absent:
        raise CheckpointError(f"{path} is not a state dict of OpenAI's CLIP", why=f"missing: {', '.join(absent)}")
    renamed: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if key in _BOOKKEEPING or key.endswith(_DERIVED):
            continue
        if key in _TRANSPOSED:
            renamed[_TRANSPOSED[key]] = tensor.t() if tensor.ndim == 2 else tensor
        elif key in _OUTSIDE:
            renamed[_OUTSIDE[key]] = tensor
        else:
            renamed.update(_block_weights(key, tensor))
    return _config(state, path), renamed


def _block_weights(key: str, tensor: Tensor) -> dict[str, Tensor]:
    match = _BLOCK.match(key)
    if match is None:
        return {key: tensor}
    tower = "vision_model" if match[1] else "text_model"
    block, inner = f"{tower}.encoder.layers.{match[2]}", match[3]
    for kind in ("weight", "bias"):
        if inner == f"attn.in_proj_{kind}" and tensor.ndim > 0 and tensor.shape[0] % 3 == 0:
            parts = zip(("q_proj", "k_proj", "v_proj"), tensor.chunk(3), strict=True)
            return {f"{block}.self_attn.{name}.{kind}": part for name, part in parts}
    for theirs, ours in _IN_BLOCK.items():
        if inner.startswith(theirs):
            return {f"{block}.{ours}{inner.removeprefix(theirs)}": tensor}
    return {key: tensor}


def _config(state: Mapping[str, Tensor], path: Path) -> LrclrConfig:
    def layers(prefix: str) -> int:
        numbers = {int(m[2]) for key in state if (m := _BLOCK.match(key)) and (m[1] or "") == prefix}
        return max(numbers, default=-1) + 1

    try:
        width, _, patch, _ = state["visual.conv1.weight"].shape
        positions, _ = state["visual.positional_embedding"].shape
        context, text_width = state["positional_embedding"].shape
        vocabulary, _ = state["token_embedding.weight"].shape
        _, dimension = state["text_projection"].shape
        grid = math.isqrt(positions - 1)
        if width % _HEAD_WIDTH or text_width % _HEAD_WIDTH:
            raise ValueError(f"its widths {width} and {text_width} are no multiples of {_HEAD_WIDTH}")
        return LrclrConfig(
            projection_dim=dimension,
            vision_config={
                "hidden_size": width,
                "intermediate_size": 4 * width,
                "num_hidden_layers": layers("visual."),
                "num_attention_heads": width // _HEAD_WIDTH,
                "image_size": grid * patch,
                "patch_size": patch,
                "hidden_act": "quick_gelu",
                "projection_dim": dimension,
            },
            text_config={
                "hidden_size": text_width,
                "intermediate_size": 4 * text_width,
                "num_hidden_layers": layers(""),
                "num_attention_heads": text_width // _HEAD_WIDTH,
                "max_position_embeddings": context,
                "vocab_size": vocabulary,
                "eos_token_id": vocabulary - 1,
                "bos_token_id": vocabulary - 2,
                "hidden_act": "quick_gelu",
                "projection_dim": dimension,
            },
        )
    except (ValueError, UsageError) as error:
        raise CheckpointError(f"{path} has shapes that no CLIP Vision Transformer has", why=str(error)) from error
