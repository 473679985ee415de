"""The configuration of the default checkpoint's network."""

from __future__ import annotations

from benchmarks.checkpoint.images import PATCH, SIZE
from lrclr.model import LrclrConfig, LrclrModel

__all__ = ["CONTEXT", "REGIONS", "network"]

CONTEXT = 64
STEM = (24, 48, 96)
REGIONS = 48
"""Rollout's first 24 patches touched 74 % of the lung lesions of the validation split, its first 48 86 %."""


def network(*, vocabulary: int, regions: int = REGIONS) -> LrclrModel:
    """A network with random weights: 3.4 million parameters, 196 patches of 16 pixels."""
    config = LrclrConfig(
        projection_dim=128,
        text_config={
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "vocab_size": vocabulary,
            "max_position_embeddings": CONTEXT,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        vision_config={
            "model_type": "lrclr_stem_clip",
            "stem_channels": STEM,
            "hidden_size": 192,
            "intermediate_size": 768,
            "num_hidden_layers": 6,
            "num_attention_heads": 3,
            "image_size": SIZE,
            "patch_size": PATCH,
        },
        region_rollout="mean",
        region_top_k=regions,
        # With one block, EOT reads the regions themselves. With two, words of the prompt read them first, and EOT reads
        # the words: after 300 steps on a frozen base, pointing was 0.80 in the mean on the validation split against
        # 0.51, at a quarter of the time.
        fusion_num_layers=1,
        fusion_hidden_size=96,
        fusion_intermediate_size=192,
    )
    return LrclrModel(config)
