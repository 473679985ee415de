"""CLIP's attention, which hands the region chain the maps it needs and keeps no others."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

IMPLEMENTATION = "lrclr"


class AttentionRecorder:
    """Collects what attention rollout needs from each of `num_layers` layers, in order.

    Of the last layer only the CLS row enters the chain; with ``mean`` only the average over heads does.
    """

    def __init__(self, num_layers: int, *, mean: bool) -> None:
        self.num_layers, self.mean = num_layers, mean
        self.maps: list[Tensor] = []

    def add(self, probabilities: Tensor) -> None:
        """Take the attention probabilities ``[B, H, N, N]`` (float32) of the next layer."""
        if len(self.maps) == self.num_layers - 1:
            probabilities = probabilities[:, :, :1]
        self.maps.append(probabilities.mean(1, keepdim=True) if self.mean else probabilities)


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, dropout: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Attention over ``[B, H, N, C]``; returns the output ``[B, H, N, C]`` and the probabilities in float32.

    In float32 this is transformers' eager attention bit for bit. In float16 the softmax is computed in float32 by an
    explicit cast: ``softmax(..., dtype=float32)`` on half precision would be exported as a half-precision softmax.
    """
    scores = (torch.matmul(query, key.transpose(-1, -2)) * scaling).float()
    if mask is not None:
        scores = scores + mask
    probabilities = nn.functional.softmax(scores, dim=-1)
    weights = nn.functional.dropout(probabilities.to(query.dtype), p=dropout, training=dropout > 0)
    return torch.matmul(weights, value), probabilities


def split_heads(tokens: Tensor, heads: int) -> Tensor:
    """``[B, N, H*C]`` to ``[B, H, N, C]``."""
    return torch.unflatten(tokens, -1, (heads, -1)).transpose(1, 2)


def _lrclr_attention(  # noqa: PLR0913, PLR0917 - transformers fixes the signature
    module: nn.Module,  # noqa: ARG001
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    recorder: AttentionRecorder | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    output, probabilities = attend(query, key, value, attention_mask, scaling, dropout)
    if recorder is not None:
        recorder.add(probabilities)
    return output.transpose(1, 2).contiguous(), None


AttentionInterface.register(IMPLEMENTATION, _lrclr_attention)
# Without a mask of its own, transformers gives an attention it does not know none at all, not even the causal one.
AttentionMaskInterface.register(IMPLEMENTATION, eager_mask)
