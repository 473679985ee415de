"""The plain Vision Transformer of timm and of transformers' ``ViTModel``, under the names of CLIP's tower.

It differs from CLIP's tower in three ways: patches are embedded with a bias, no LayerNorm stands before the first
block, and a dense layer with tanh may follow the last one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import CLIPVisionConfig

from lrclr.model.towers.clip import ClipVision

if TYPE_CHECKING:
    from torch import Tensor


class PlainVitConfig(CLIPVisionConfig):  # type: ignore[misc]
    """Configuration of `PlainVit`.

    Args:
        pooler: whether a dense layer with tanh follows the last LayerNorm, as in transformers' ``ViTModel``.
    """

    model_type = "lrclr_vit"

    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6
    pooler: bool = False


class PlainVit(ClipVision):
    """See the module."""

    config_class = PlainVitConfig

    def __init__(self, config: PlainVitConfig) -> None:
        super().__init__(config)
        self.pre_layrnorm = nn.Identity()
        patches = self.embeddings.patch_embedding
        patches.bias = nn.Parameter(torch.zeros(patches.out_channels))
        self.pooler = nn.Linear(config.hidden_size, config.hidden_size) if config.pooler else None

    def pool(self, token: Tensor) -> Tensor:
        pooled = super().pool(token)
        return pooled if self.pooler is None else torch.tanh(self.pooler(pooled))
