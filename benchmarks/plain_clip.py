"""A checkpoint's CLIP without regions and fusion, as a user without lrclr would run it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from transformers import CLIPConfig, CLIPModel

from lrclr.model import LrclrConfig, LrclrModel

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


def without_convolutions(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint without the convolutions beside its patch embedding, which other programs do not have.

    It answers worse, so it is for speed, and for whether programs agree.
    """
    config = checkpoint.config.to_dict()
    config["vision_config"] = {**config["vision_config"], "model_type": "clip_vision_model"}
    model = LrclrModel(LrclrConfig.from_dict(config)).eval()
    weights = checkpoint.model.state_dict()
    model.load_state_dict({name: value for name, value in weights.items() if ".stem." not in name})
    return replace(checkpoint, model=model)
