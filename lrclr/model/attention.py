"""The attention of all towers, which hands the region chain the maps it needs and keeps no others."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

IMPLEMENTATION = "lrclr"


class AttentionRecorder:
    """Collects what attention rollout needs: the maps of `whole` layers, in order, and then the start row.

    With ``mean`` only the average over heads enters the chain.
    """

    def __init__(self, whole: int, *, mean: bool) -> None:
        self.whole, self.mean = whole, mean
        self.maps: list[Tensor] = []

    def add(self, probabilities: Tensor) -> None:
        """Take the attention probabilities ``[B, H, N, N]`` (float32) of the next layer; of the last its first row."""
        if len(self.maps) == self.whole:
            probabilities = probabilities[:, :, :1]
        self.maps.append(probabilities.mean(1, keepdim=True) if self.mean else probabilities)

    def complete(self) -> list[Tensor]:
        """All maps, and the start row last.

        Raises:
            RuntimeError: a layer's attention was not recorded, since its module does not pass the recorder on.
        """
        if len(self.maps) != self.whole + 1:
            raise RuntimeError(f"{len(self.maps)} attention maps were recorded, and {self.whole + 1} were expected")
        return self.maps


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, dropout: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Attention over ``[B, H, N, C]``; returns the output ``[B, H, N, C]`` and the probabilities in float32.

    In float32 this is transformers' eager attention bit for bit. In float16 the softmax is computed in float32 by an
    explicit cast: ``softmax(..., dtype=float32)`` on half precision would be exported as a half-precision softmax. The
    query is scaled before the product, which overflows in float16 otherwise.
    """
    # A power of two and a rest in [1/2, 1). Multiplying by the power rounds nothing, so the scores are those of one
    # multiplication after the product, to the last bit. TensorRT-RTX fuses attention only if a factor follows the
    # product (measured: not with the whole scale on the query, nor without one).
    after, exponent = math.frexp(scaling)
    scores = (torch.matmul(query * math.ldexp(1.0, exponent), key.transpose(-1, -2)) * after).float()
    if mask is not None:
        scores = scores + mask
    probabilities = nn.functional.softmax(scores, dim=-1)
    weights = nn.functional.dropout(probabilities.to(query.dtype), p=dropout, training=dropout > 0)
    return torch.matmul(weights, value), probabilities


def split_heads(tokens: Tensor, heads: int) -> Tensor:
    """``[B, N, H*C]`` to ``[B, H, N, C]``."""
    return tokens.view(*tokens.shape[:-1], heads, -1).transpose(1, 2)


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
