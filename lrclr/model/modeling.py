"""`LrclrModel`: a CLIP model with local region selection and a cross-modality fusion head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import CLIPModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from lrclr.errors import UsageError
from lrclr.model.attention import IMPLEMENTATION, AttentionRecorder, attend, split_heads
from lrclr.model.configuration import LrclrConfig
from lrclr.model.contrastive import contrastive_loss
from lrclr.model.fusion import FusionHead, FusionLinear
from lrclr.model.regions import Regions, SelectRegions, select_regions


class ImageEncoding(NamedTuple):
    """Attributes: embedding ``[B, D]``, unit length; regions: see `Regions`, tokens of the last block."""

    embedding: Tensor
    regions: Regions


class TextEncoding(NamedTuple):
    """Attributes: embedding ``[P, D]``, unit length; tokens ``[P, T, D_text]``, after the final LayerNorm."""

    embedding: Tensor
    tokens: Tensor


@dataclass
class LrclrOutput(ModelOutput):  # type: ignore[misc]
    """Output of `LrclrModel.forward` for B images and P prompts.

    Attributes:
        loss: scalar; only with ``return_loss``.
        logits_per_image: ``[B, P]``, scaled cosines of the global embeddings.
        logits_per_text: its transpose.
        image_embeds: ``[B, D]``, unit length.
        text_embeds: ``[P, D]``, unit length.
        local_score: ``[B, P]``, of the fusion head, in [-1, 1].
        region_attention: ``[B, P, R]``.
        region_index: ``[B, R]``.
        region_importance: ``[B, R]``.
    """

    loss: Tensor | None = None
    logits_per_image: Tensor | None = None
    logits_per_text: Tensor | None = None
    image_embeds: Tensor | None = None
    text_embeds: Tensor | None = None
    local_score: Tensor | None = None
    region_attention: Tensor | None = None
    region_index: Tensor | None = None
    region_importance: Tensor | None = None


class LrclrModel(CLIPModel):  # type: ignore[misc]
    """CLIP's two towers, region selection in the image tower, and a fusion head over both.

    Its parameters are those of transformers' `CLIPModel` and ``fusion_head.*``.
    """

    config_class = LrclrConfig

    def __init__(self, config: LrclrConfig) -> None:
        super().__init__(config)
        self.fusion_head = FusionHead(config)
        for part in (config, config.text_config, config.vision_config):
            part._attn_implementation = IMPLEMENTATION  # noqa: SLF001 - transformers' own switch
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, FusionLinear):
            init.normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, FusionHead):
            init.normal_(module.modality_embedding, std=0.02)
        else:
            super()._init_weights(module)

    def encode_image(
        self, pixel_values: Tensor, *, select: SelectRegions = select_regions, prune: bool = False
    ) -> ImageEncoding:
        """Encode images.

        Args:
            pixel_values: ``[B, 3, H, W]``, preprocessed.
            select: what picks and gathers the regions; the exporter puts an opaque operator here.
            prune: compute the last block for CLS and the selected regions only. Same result up to rounding; without
                it the global path is that of `CLIPModel` bit for bit.
        """
        vision = self.vision_model
        layers = vision.encoder.layers
        mean = self.config.region_rollout == "mean"
        recorder = AttentionRecorder(len(layers), mean=mean)
        hidden = vision.pre_layrnorm(vision.embeddings(pixel_values))
        for layer in layers[:-1]:
            hidden = layer(hidden, None, recorder=recorder)
        if prune:
            regions = self._pruned_last_block(hidden, recorder, select)
        else:
            hidden = layers[-1](hidden, None, recorder=recorder)
            regions = select(recorder.maps, hidden, self.config.region_top_k, mean)
        embedding = self.visual_projection(vision.post_layernorm(regions.tokens[:, 0]))
        return ImageEncoding(_unit(embedding), regions._replace(tokens=regions.tokens.float()))

    def _pruned_last_block(self, hidden: Tensor, recorder: AttentionRecorder, select: SelectRegions) -> Regions:
        layer = self.vision_model.encoder.layers[-1]
        attention = layer.self_attn
        heads = attention.num_heads
        normed = layer.layer_norm1(hidden)
        key, value = split_heads(attention.k_proj(normed), heads), split_heads(attention.v_proj(normed), heads)
        _, cls_row = attend(split_heads(attention.q_proj(normed[:, :1]), heads), key, value, None, attention.scale)
        recorder.add(cls_row)
        regions = select(recorder.maps, hidden, self.config.region_top_k, recorder.mean)
        rows = regions.tokens
        query = split_heads(attention.q_proj(layer.layer_norm1(rows)), heads)
        mixed, _ = attend(query, key, value, None, attention.scale)
        rows = rows + attention.out_proj(mixed.transpose(1, 2).flatten(2))
        rows = rows + layer.mlp(layer.layer_norm2(rows))
        return regions._replace(tokens=rows)

    def encode_text(self, input_ids: Tensor) -> TextEncoding:
        """Encode prompts ``[P, T]`` that each hold an EOT; what follows the first EOT changes no output up to it.

        The configuration's `text_end` tells where a prompt ends.
        """
        text = self.text_model
        hidden = text.embeddings(input_ids=input_ids)
        length = input_ids.shape[1]
        floor = torch.full((length, length), torch.finfo(torch.float32).min, device=hidden.device)
        mask = torch.triu(floor, diagonal=1)
        for layer in text.encoder.layers:
            hidden = layer(hidden, mask)
        hidden = text.final_layer_norm(hidden)
        ends = input_ids if self.config.text_end == "highest_token" else input_ids == text.eos_token_id
        end = ends.to(torch.int32).argmax(-1)
        pooled = hidden[torch.arange(hidden.shape[0], device=hidden.device), end]
        embedding = self.text_projection(pooled)
        return TextEncoding(_unit(embedding), hidden.float())

    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor,
        attention_mask: Tensor,
        return_loss: bool | None = None,
        **_: Any,
    ) -> LrclrOutput:
        """Score B images against P prompts; with `return_loss` image i must belong to prompt i.

        Args:
            input_ids: ``[P, T]``.
            pixel_values: ``[B, 3, H, W]``.
            attention_mask: ``[P, T]``, 1 up to and including EOT.
            return_loss: also compute the symmetric contrastive loss, global plus `local_loss_weight` times local.
        """
        image = self.encode_image(pixel_values)
        text = self.encode_text(input_ids)
        local, region_attention = self.fusion_head(image.regions.tokens, text.tokens, attention_mask)
        scale = self.logit_scale.exp().float()
        logits_per_text = text.embedding @ image.embedding.t() * scale
        logits = logits_per_text.t()
        loss = None
        if return_loss:
            if logits.shape[0] != logits.shape[1]:
                raise UsageError(
                    f"a loss needs one prompt for each image; got {logits.shape[0]} images, {logits.shape[1]} prompts"
                )
            loss = contrastive_loss(logits) + self.config.local_loss_weight * contrastive_loss(scale * local)
        return LrclrOutput(
            loss=loss,
            logits_per_image=logits,
            logits_per_text=logits_per_text,
            image_embeds=image.embedding,
            text_embeds=text.embedding,
            local_score=local,
            region_attention=region_attention,
            region_index=image.regions.index,
            region_importance=image.regions.importance,
        )


def _unit(embedding: Tensor) -> Tensor:
    # Spelled as transformers' CLIP spells it: nn.functional.normalize rounds differently.
    embedding = embedding.float()
    return embedding / embedding.square().sum(-1, keepdim=True).sqrt()
