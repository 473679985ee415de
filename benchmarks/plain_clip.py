"""A checkpoint's CLIP without regions and fusion, as a user without lrclr would run it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transformers import CLIPConfig, CLIPModel

if TYPE_CHECKING:
    from lrclr.checkpoints import Checkpoint


def plain_clip(checkpoint: Checkpoint) -> CLIPModel:
    """transformers' model with the checkpoint's weights, for inference, with transformers' default attention."""
    own = checkpoint.config
    config = CLIPConfig(
        projection_dim=own.projection_dim,
        text_config=own.text_config.to_dict(),
        vision_config=own.vision_config.to_dict(),
    )
    clip = CLIPModel(config).eval()
    weights = {name: value for name, value in checkpoint.model.state_dict().items() if "fusion_head" not in name}
    clip.load_state_dict(weights)
    return clip
