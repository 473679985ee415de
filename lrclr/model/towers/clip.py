"""CLIP's towers, as transformers computes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModel

from lrclr.model.towers.tower import TextTower, VisionTower

if TYPE_CHECKING:
    from torch import Tensor

    from lrclr.model.towers.tower import NetworkConfig


class ClipVision(VisionTower, CLIPVisionModel):  # type: ignore[misc]
    """A Vision Transformer with a LayerNorm before its first block, pooled by its CLS token."""

    config_class = CLIPVisionConfig

    def embed(self, pixel_values: Tensor) -> Tensor:
        hidden: Tensor = self.pre_layrnorm(self.embeddings(pixel_values))
        return hidden

    def pool(self, token: Tensor) -> Tensor:
        pooled: Tensor = self.post_layernorm(token)
        return pooled


class ClipText(TextTower, CLIPTextModel):  # type: ignore[misc]
    """A causal transformer, pooled at the end of the prompt."""

    config_class = CLIPTextConfig
    causal = True

    @classmethod
    def build(cls, config: NetworkConfig) -> ClipText:
        tower = cls(config.text_config)
        tower.text_end = config.text_end
        return tower

    def encode(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        """What follows the first EOT of a prompt changes no output up to it. Each prompt must hold an EOT."""
        hidden = self.embeddings(input_ids=input_ids)
        length = input_ids.shape[1]
        floor = torch.full((length, length), torch.finfo(torch.float32).min, device=hidden.device)
        mask = torch.triu(floor, diagonal=1)
        for layer in self.encoder.layers:
            hidden = layer(hidden, mask)
        hidden = self.final_layer_norm(hidden)
        ends = input_ids if self.text_end == "highest_token" else input_ids == self.eos_token_id
        end = ends.to(torch.int32).argmax(-1)
        pooled = hidden[torch.arange(hidden.shape[0], device=hidden.device), end]
        return pooled, hidden
