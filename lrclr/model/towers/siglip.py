"""SigLIP's towers, of SigLIP 2 with a fixed resolution and of MedSigLIP too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn
from transformers import SiglipTextConfig, SiglipTextModel, SiglipVisionConfig, SiglipVisionModel
from transformers.models.clip.modeling_clip import CLIPAttention

from lrclr.model.attention import attend, split_heads
from lrclr.model.towers.tower import TextTower, VisionTower

if TYPE_CHECKING:
    from torch import Tensor

    from lrclr.model.attention import AttentionRecorder
    from lrclr.model.towers.tower import NetworkConfig


class SiglipVision(VisionTower, SiglipVisionModel):  # type: ignore[misc]
    """A Vision Transformer without a CLS token: a learnt probe attends to the patches and gives the embedding.

    The rollout starts from the probe's attention. Every patch of the last block is read by the probe, so that the block
    cannot be pruned.
    """

    config_class = SiglipVisionConfig
    prefix = 0
    prunable = False
    projects = True

    def __init__(self, config: SiglipVisionConfig) -> None:
        super().__init__(config)
        for layer in self.encoder.layers:
            # The same parameters and the same arithmetic; unlike SigLIP's, CLIP's passes the recorder on.
            layer.self_attn = CLIPAttention(config)

    def embed(self, pixel_values: Tensor) -> Tensor:
        hidden: Tensor = self.embeddings(pixel_values)
        return hidden

    def read(self, hidden: Tensor, recorder: AttentionRecorder) -> Tensor:
        # Not by nn.MultiheadAttention: it gives no attention by head, and exports a softmax in half precision.
        head = self.head
        attention = head.attention
        heads = attention.num_heads
        tokens = self.post_layernorm(hidden)
        width = attention.embed_dim
        sources = (head.probe.expand(hidden.shape[0], -1, -1), tokens, tokens)
        query, key, value = (
            split_heads(
                nn.functional.linear(source, attention.in_proj_weight[rows], attention.in_proj_bias[rows]), heads
            )
            for source, rows in zip(sources, (slice(k * width, (k + 1) * width) for k in range(3)), strict=True)
        )
        mixed, row = attend(query, key, value, None, attention.head_dim**-0.5)
        recorder.add(row)
        pooled = attention.out_proj(mixed.transpose(1, 2).flatten(2))
        token: Tensor = pooled + head.mlp(head.layernorm(pooled))
        return token

    def pool(self, token: Tensor) -> Tensor:
        return token


class SiglipText(TextTower, SiglipTextModel):  # type: ignore[misc]
    """A transformer without a mask, pooled at its last position, which is padding for most prompts."""

    config_class = SiglipTextConfig
    causal = False
    padding_visible = True
    projects = True

    @classmethod
    def build(cls, config: NetworkConfig) -> SiglipText:
        return cls(config.text_config)

    def encode(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.embeddings(input_ids=input_ids)
        for layer in self.encoder.layers:
            hidden = layer(hidden, None)
        hidden = self.final_layer_norm(hidden)
        return self.head(hidden[:, -1]), hidden
