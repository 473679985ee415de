"""The configuration of the default checkpoint's network."""

from __future__ import annotations

from benchmarks.checkpoint.images import SIDE, SIZES
from lrclr.model import LrclrConfig, LrclrModel

__all__ = ["CONTEXT", "REGIONS", "network"]

CONTEXT = 64
STEM = (24, 48, 96)
"""Channels of the convolutions beside the patch embedding of the network with most pixels."""
REGIONS = 48
"""Rollout's first 24 patches touched 74 % of the lung lesions of the validation split, its first 48 86 %."""


def network(*, vocabulary: int, regions: int = REGIONS, size: int = SIZES[-1]) -> LrclrModel:
    """A network with random weights: 3.8 million parameters, 196 patches.

    Args:
        vocabulary: number of tokens.
        regions: number of regions.
        size: pixels along each edge of an image. Only the network with most pixels has convolutions.
    """
    stem = {"model_type": "lrclr_stem_clip", "stem_channels": STEM} if size == SIZES[-1] else {}
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
            **stem,
            "hidden_size": 192,
            "intermediate_size": 768,
            "num_hidden_layers": 6,
            "num_attention_heads": 3,
            "image_size": size,
            "patch_size": size // SIDE,
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
