"""The configuration refuses invalid values with lrclr's own messages and derives the other values."""

from __future__ import annotations

from typing import Any

import pytest

from lrclr.errors import UsageError
from lrclr.model import LrclrConfig

TOWER: dict[str, Any] = {"vision_config": {"image_size": 112, "patch_size": 16, "num_attention_heads": 6}}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"region_rollout": "max"}, "region_rollout is not usable. It must be 'per_head' or 'mean'"),
        ({"region_top_k": 0}, "region_top_k"),
        ({"region_top_k": 50}, "between 1 and 49"),
        ({"region_top_k": 1.5}, "region_top_k"),
        ({"region_top_k": True}, "region_top_k"),
        ({"fusion_hidden_size": 30}, "fusion_hidden_size is not usable. It must be a multiple of fusion_num_heads"),
        ({"fusion_hidden_size": 0}, "fusion_hidden_size"),
        ({"fusion_num_layers": 0}, "fusion_num_layers"),
        ({"fusion_num_heads": 0}, "fusion_num_heads"),
        ({"fusion_num_heads": "4"}, "fusion_num_heads"),
        ({"fusion_intermediate_size": -1}, "fusion_intermediate_size"),
        ({"fusion_trained": "yes"}, "fusion_trained"),
        ({"alpha": -0.1}, "alpha is not usable. It must be a number between 0 and 1"),
        ({"alpha": 1.1}, "alpha"),
        ({"alpha": float("nan")}, "alpha"),
        ({"alpha": "half"}, "alpha"),
        ({"alpha": None}, "alpha"),
        ({"score_scale": 0.0}, "score_scale"),
        ({"score_scale": float("inf")}, "score_scale"),
        ({"score_bias": float("nan")}, "score_bias"),
        ({"finding_calibration": {"Edema": [0.0, 1.0]}}, "finding_calibration"),
        ({"finding_calibration": {"Edema": 1.0}}, "finding_calibration"),
        ({"local_loss_weight": -1.0}, "local_loss_weight"),
        ({"projection_dim": None}, "projection_dim"),
        ({"vision_config": {"patch_size": 0}}, "vision_config.patch_size"),
        ({"vision_config": {"patch_size": 225}}, "vision_config.patch_size"),
        ({"vision_config": {"image_size": [224, 224]}}, "vision_config.image_size"),
        ({"vision_config": {"num_channels": 1}}, "vision_config.num_channels"),
        ({"vision_config": {"num_hidden_layers": 0}}, "vision_config.num_hidden_layers"),
        ({"vision_config": {"num_attention_heads": 0}}, "a tower"),
        ({"vision_config": {"hidden_size": 100}}, "not a multiple of the number of attention"),
        ({"vision_config": {"hidden_size": "wide"}}, "hidden_size"),
        ({"text_config": {"eos_token_id": None}}, "text_config.eos_token_id"),
        ({"text_config": {"eos_token_id": [1, 2]}}, "text_config.eos_token_id"),
        ({"text_config": {"eos_token_id": 49408}}, "a token of the 49408 known"),
        ({"text_config": {"max_position_embeddings": 0}}, "text_config.max_position_embeddings"),
        ({"text_config": {"layer_norm_eps": None}}, "text_config.layer_norm_eps"),
    ],
)
def test_invalid_values_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        LrclrConfig(**fields)
    assert words in str(caught.value)


def test_defaults_are_those_of_vit_b_32() -> None:
    config = LrclrConfig()
    assert (config.num_patches, config.region_rollout, config.region_top_k, config.num_regions) == (
        49,
        "per_head",
        1,
        12,
    )


@pytest.mark.parametrize(
    ("fields", "top_k", "regions"),
    [
        ({}, 1, 6),
        ({"region_top_k": 4}, 4, 24),
        ({"region_rollout": "mean"}, 6, 6),
        ({"region_rollout": "mean", "region_top_k": 3}, 3, 3),
    ],
)
def test_the_number_of_regions(fields: dict[str, Any], top_k: int, regions: int) -> None:
    config = LrclrConfig(**TOWER, **fields)
    assert (config.num_patches, config.region_top_k, config.num_regions) == (49, top_k, regions)


def test_an_untrained_local_score_has_weight_zero() -> None:
    assert LrclrConfig(alpha=0.7).effective_alpha == 0
    assert LrclrConfig(alpha=0.7, fusion_trained=True).effective_alpha == 0.7
    assert LrclrConfig(alpha=0, fusion_trained=True).effective_alpha == 0


def test_a_configuration_survives_a_dictionary() -> None:
    config = LrclrConfig(**TOWER, region_rollout="mean", alpha=0.25, score_scale=2, fusion_trained=True)
    again = LrclrConfig.from_dict(config.to_dict())
    assert again.to_dict() == config.to_dict()
    assert again.model_type == "lrclr"
    assert again.num_regions == 6
