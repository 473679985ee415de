"""`LrclrModel`: a dual encoder with local region selection and a cross-modality fusion head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from lrclr.contract import GRAPHS
from lrclr.errors import UsageError
from lrclr.model.attention import IMPLEMENTATION, AttentionRecorder, attend, split_heads
from lrclr.model.configuration import LrclrConfig
from lrclr.model.contrastive import contrastive_loss
from lrclr.model.fusion import FusionHead, FusionLinear
from lrclr.model.regions import Regions, SelectRegions, select_regions
from lrclr.model.towers import text_tower, vision_tower

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lrclr.model.towers import TextTower, VisionTower


class ImageEncoding(NamedTuple):
    """Attributes: embedding ``[B, D]``, unit length; regions: see `Regions`, tokens of the last block."""

    embedding: Tensor
    regions: Regions


class TextEncoding(NamedTuple):
    """Attributes: embedding ``[P, D]``, unit length; tokens ``[P, T, D_text]``, of the last layer."""

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


class LrclrModel(PreTrainedModel):  # type: ignore[misc]
    """A dual encoder with local region selection and a cross-modality fusion head.

    The configuration's towers decide what kind of network it is; see `lrclr.model.towers`. Its parameters have the
    names of the original class (of transformers' `CLIPModel`, for CLIP) and ``fusion_head.*``.
    """

    config_class = LrclrConfig
    base_model_prefix = "lrclr"
    main_input_name = "pixel_values"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_attention_backend = True

    def __init__(self, config: LrclrConfig) -> None:
        super().__init__(config)
        self.text_model: Any = text_tower(config.text_config).build(config)
        self.vision_model: Any = vision_tower(config.vision_config).build(config)
        self.visual_projection: Any = _projection(config, self.vision_model, config.vision_config.hidden_size, "linear")
        self.text_projection: Any = _projection(
            config, self.text_model, config.text_config.hidden_size, config.text_projection_kind
        )
        self.logit_scale = nn.Parameter(torch.tensor(config.logit_scale_init_value))
        if config.logit_bias:
            # Not a parameter: it is the same for every pair, so that no contrastive loss has a gradient for it.
            self.register_buffer("logit_bias", torch.zeros(()))
        # Twice, so that a seed gives the weights that it gave when the towers were those of `CLIPModel`.
        self.post_init()
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
        elif isinstance(module, LrclrModel):
            for name in ("text_projection", "visual_projection"):
                for layer in module.get_submodule(name).modules():
                    if isinstance(layer, nn.Linear):
                        init.normal_(layer.weight, std=layer.in_features**-0.5 * self.config.initializer_factor)
        else:
            super()._init_weights(module)

    def encode_image(
        self, pixel_values: Tensor, *, select: SelectRegions = select_regions, prune: bool = False
    ) -> ImageEncoding:
        """Encode images.

        Args:
            pixel_values: ``[B, 3, H, W]``, preprocessed.
            select: what picks and gathers the regions; the exporter puts an opaque operator here.
            prune: compute the last block for CLS and the selected regions only, where the tower allows it. Same result
                up to rounding; without it the global path is that of the original class bit for bit.
        """
        tower: VisionTower = self.vision_model
        blocks = tower.blocks
        mean = self.config.region_rollout == "mean"
        recorder = AttentionRecorder(len(blocks) - tower.prefix, mean=mean)
        hidden = tower.embed(pixel_values)
        for block in blocks[:-1]:
            hidden = block(hidden, None, recorder=recorder)
        if prune and tower.prunable:
            regions = self._pruned_last_block(hidden, recorder, select)
        else:
            hidden = blocks[-1](hidden, None, recorder=recorder)
            global_token = tower.read(hidden, recorder)
            regions = select(recorder.complete(), hidden, self.config.region_top_k, mean, tower.prefix)
            if global_token is not None:
                regions = regions._replace(tokens=torch.cat([global_token, regions.tokens], dim=1))
        embedding = self.visual_projection(tower.pool(regions.tokens[:, 0]))
        return ImageEncoding(_unit(embedding), regions._replace(tokens=regions.tokens.float()))

    def _pruned_last_block(self, hidden: Tensor, recorder: AttentionRecorder, select: SelectRegions) -> Regions:
        layer = self.vision_model.blocks[-1]
        attention = layer.self_attn
        heads = attention.num_heads
        normed = layer.layer_norm1(hidden)
        key, value = split_heads(attention.k_proj(normed), heads), split_heads(attention.v_proj(normed), heads)
        _, cls_row = attend(split_heads(attention.q_proj(normed[:, :1]), heads), key, value, None, attention.scale)
        recorder.add(cls_row)
        regions = select(recorder.complete(), hidden, self.config.region_top_k, recorder.mean, 1)
        rows = regions.tokens
        query = split_heads(attention.q_proj(layer.layer_norm1(rows)), heads)
        mixed, _ = attend(query, key, value, None, attention.scale)
        rows = rows + attention.out_proj(mixed.transpose(1, 2).flatten(2))
        rows = rows + layer.mlp(layer.layer_norm2(rows))
        return regions._replace(tokens=rows)

    def encode_text(self, input_ids: Tensor) -> TextEncoding:
        """Encode prompts ``[P, T]``, as the checkpoint's tokenizer gives them."""
        pooled, tokens = self.text_model.encode(input_ids)
        return TextEncoding(_unit(self.text_projection(pooled)), tokens.float())

    def run_graph(
        self,
        graph: str,
        inputs: Mapping[str, Tensor],
        *,
        select: SelectRegions = select_regions,
        prune: bool = False,
    ) -> dict[str, Tensor]:
        """Compute the outputs of one of the graphs of `lrclr.contract`, by name and in its order.

        Args:
            graph: name of the graph.
            inputs: its inputs, by name.
            select, prune: as for `encode_image`.
        """
        contract = GRAPHS[graph]
        arguments = [inputs[name] for name in contract.input_names]
        outputs: tuple[Tensor, ...]
        if graph == "image_encoder":
            image = self.encode_image(*arguments, select=select, prune=prune)
            outputs = (image.embedding, *image.regions)
        elif graph == "text_encoder":
            outputs = self.encode_text(*arguments)
        else:
            outputs = self.fusion_head(*arguments)
        return dict(zip(contract.output_names, outputs, strict=True))

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
        if self.config.logit_bias:
            logits_per_text = logits_per_text + self.logit_bias
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


def _projection(config: LrclrConfig, tower: VisionTower | TextTower, width: int, kind: str) -> nn.Module:
    """From what a tower pools to the embedding; nothing where the tower gives the embedding itself."""
    if tower.projects:
        return nn.Identity()
    if kind == "linear":
        return nn.Linear(width, config.projection_dim, bias=False)
    # As in open_clip's text towers with the `proj_type` mlp.
    between = (width + config.projection_dim) // 2
    return nn.Sequential(
        nn.Linear(width, between, bias=False), nn.GELU(), nn.Linear(between, config.projection_dim, bias=False)
    )


def _unit(embedding: Tensor) -> Tensor:
    # Spelled as transformers' CLIP spells it: nn.functional.normalize rounds differently.
    embedding = embedding.float()
    return embedding / (embedding * embedding).sum(-1, keepdim=True).sqrt()
