"""The network's three graphs: what goes in, what comes out, which axes are free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lrclr.model.region_op import select_regions_op

if TYPE_CHECKING:
    from lrclr.model import LrclrModel


class ImageEncoder(nn.Module):
    """`pixel_values` to the image embedding and the selected regions; the last block for those rows only."""

    def __init__(self, model: LrclrModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        embedding, regions = self.model.encode_image(pixel_values, select=select_regions_op, prune=True)
        return embedding, regions.tokens, regions.index, regions.importance


class TextEncoder(nn.Module):
    """`input_ids` to the prompt embedding and its tokens."""

    def __init__(self, model: LrclrModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        embedding, tokens = self.model.encode_text(input_ids)
        return embedding, tokens


class FusionHeadGraph(nn.Module):
    """Regions and prompt tokens to the local score and the region attention of every pair."""

    def __init__(self, model: LrclrModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, region_tokens: Tensor, text_tokens: Tensor, text_mask: Tensor) -> tuple[Tensor, Tensor]:
        score, attention = self.model.fusion_head(region_tokens, text_tokens, text_mask)
        return score, attention


@dataclass(frozen=True)
class GraphSpec:
    """One graph of the contract: `inputs` maps each name to its example tensor, `dynamic` to its free axes."""

    name: str
    module: nn.Module
    inputs: dict[str, Tensor]
    dynamic: dict[str, dict[int, Any]]
    outputs: tuple[str, ...]


def graph_specs(model: LrclrModel) -> tuple[GraphSpec, ...]:
    """The three graphs of `model`, in the order in which a request runs them."""
    config = model.config
    vision, text = config.vision_config, config.text_config
    batch, prompts = torch.export.Dim("batch", min=1, max=65535), torch.export.Dim("prompts", min=1, max=65535)
    tokens = torch.export.Dim("tokens", min=2, max=text.max_position_embeddings)
    length = min(9, text.max_position_embeddings - 1)
    ids = torch.full((3, length), 1)
    ids[:, -1] = model.text_model.eos_token_id
    size = vision.image_size
    return (
        GraphSpec(
            "image_encoder",
            ImageEncoder(model),
            {"pixel_values": torch.zeros(2, vision.num_channels, size, size)},
            {"pixel_values": {0: batch}},
            ("image_embedding", "region_tokens", "region_index", "region_importance"),
        ),
        GraphSpec(
            "text_encoder",
            TextEncoder(model),
            {"input_ids": ids},
            {"input_ids": {0: prompts, 1: tokens}},
            ("text_embedding", "text_tokens"),
        ),
        GraphSpec(
            "fusion_head",
            FusionHeadGraph(model),
            {
                "region_tokens": torch.zeros(2, config.num_regions + 1, vision.hidden_size),
                "text_tokens": torch.zeros(3, length, text.hidden_size),
                "text_mask": torch.ones(3, length, dtype=torch.int64),
            },
            {
                "region_tokens": {0: batch},
                "text_tokens": {0: prompts, 1: tokens},
                "text_mask": {0: prompts, 1: tokens},
            },
            ("local_score", "region_attention"),
        ),
    )
