"""OpenAI's names of a CLIP's tensors, which open_clip, CheXzero and many others use."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

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


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the tensors of a CLIP transformers' names. A tensor that is not known keeps its name."""
    result: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if key in _BOOKKEEPING or key.endswith(_DERIVED):
            continue
        if key in _TRANSPOSED:
            result[_TRANSPOSED[key]] = tensor.t() if tensor.ndim == 2 else tensor
        elif key in _OUTSIDE:
            result[_OUTSIDE[key]] = tensor
        else:
            result.update(_block_weights(key, tensor))
    return result


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
