"""Checkpoints with random weights, for benchmarks and tests."""

from __future__ import annotations

from typing import Any, Final

import torch

from lrclr.checkpoints._checkpoint import Checkpoint, eval_model
from lrclr.errors import UsageError
from lrclr.model import LrclrConfig, LrclrModel
from lrclr.preprocessing import PreprocessSpec
from lrclr.text import ClipTokenizer, FindingSet

_BASE_TEXT: Final = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 8}
_BASE_VISION: Final = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}

ARCHITECTURES: Final[dict[str, dict[str, Any]]] = {
    "vit-b-32": {"projection_dim": 512, "text_config": _BASE_TEXT, "vision_config": {**_BASE_VISION, "patch_size": 32}},
    "vit-b-16": {"projection_dim": 512, "text_config": _BASE_TEXT, "vision_config": {**_BASE_VISION, "patch_size": 16}},
    "vit-l-14": {
        "projection_dim": 768,
        "text_config": {**_BASE_TEXT, "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
        "vision_config": {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "patch_size": 14,
        },
    },
    "tiny": {
        "projection_dim": 32,
        "text_config": {
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 1,
        },
        "vision_config": {
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": 112,
            "patch_size": 16,
        },
        "region_top_k": 2,
        "fusion_hidden_size": 32,
        "fusion_num_heads": 2,
        "fusion_intermediate_size": 64,
    },
}


def init_checkpoint(architecture: str, *, seed: int = 0, preprocess: str = "chexzero", **config: Any) -> Checkpoint:
    """A checkpoint with random weights: its findings mean nothing.

    Args:
        architecture: one of `ARCHITECTURES`.
        seed: seed of the weights; the same seed gives the same weights.
        preprocess: ``"clip"``, ``"chexzero"`` or ``"siglip"``.
        config: further fields of `LrclrConfig`.
    """
    if architecture not in ARCHITECTURES:
        raise UsageError(f"there is no architecture {architecture!r}", fix=f"Choose from {', '.join(ARCHITECTURES)}.")
    if not 0 <= seed < 2**63:
        raise UsageError(f"{seed} is not a seed", fix="Give a number from 0 to 2^63 - 1.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LrclrModel(LrclrConfig(**{**ARCHITECTURES[architecture], **config}))
    return Checkpoint(
        eval_model(model),
        ClipTokenizer.default(),
        preprocess_spec(preprocess, model.config.vision_config.image_size),
        FindingSet.default(),
        source="random",
        sha256="",
    )


def preprocess_spec(kind: str, image_size: int) -> PreprocessSpec:
    """The preprocessing that a caller asked for by name."""
    if kind == "clip":
        return PreprocessSpec.clip(image_size)
    if kind == "chexzero":
        return PreprocessSpec.chexzero(image_size)
    if kind == "siglip":
        return PreprocessSpec.siglip(image_size)
    raise UsageError(f"there is no preprocessing {kind!r}", fix="Choose clip, chexzero or siglip.")
