"""The image tower with convolutions beside its patch embedding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lrclr.bench import Case, Network
from lrclr.errors import UsageError
from lrclr.model import LrclrConfig, LrclrModel

SIZES: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "image_size": 64,
    "patch_size": 8,
}
STEM: dict[str, Any] = {**SIZES, "model_type": "lrclr_stem_clip", "stem_channels": [6, 12]}


def network(vision: dict[str, Any]) -> LrclrModel:
    torch.manual_seed(0)
    made: LrclrModel = LrclrModel(LrclrConfig(vision_config=vision, projection_dim=24)).eval()
    return made


@torch.no_grad()
def test_what_the_convolutions_give_is_added_to_each_patch() -> None:
    plain, stem = network(SIZES), network(STEM)
    missing = stem.load_state_dict(plain.state_dict(), strict=False)
    assert {name.split(".")[1] for name in missing.missing_keys} == {"stem"}
    assert not missing.unexpected_keys
    pixels = torch.randn(2, 3, 64, 64)
    nn.init.zeros_(stem.vision_model.stem.project.weight)
    torch.testing.assert_close(stem.encode_image(pixels), plain.encode_image(pixels), rtol=0, atol=0)
    # A change within one patch changes what is added to it, and reaches no patch far away.
    nn.init.normal_(stem.vision_model.stem.project.weight)
    changed = pixels.clone()
    changed[:, :, 8:16, 8:16] += 1
    before, after = (stem.vision_model.stem(each) for each in (pixels, changed))
    assert before.shape == (2, 48, 8, 8)
    moved = (after - before).abs().amax((0, 1)) > 0
    assert moved[1, 1]
    assert not moved[5:].any()
    assert not moved[:, 5:].any()


@torch.no_grad()
def test_operations_of_the_convolutions_are_counted() -> None:
    plain, stem = network(SIZES), network(STEM)
    case = Case("one", "image_encoder", 2, 0)
    costs = [Network.of_config(each.config.to_dict(), 8).cost(case, "fp32") for each in (plain, stem)]
    assert costs[0] is not None
    assert costs[1] is not None
    with FlopCounterMode(display=False) as counter:
        stem.vision_model.stem(torch.zeros(2, 3, 64, 64))
    assert costs[1].flops - costs[0].flops == counter.get_total_flops()
    weights = sum(each.numel() for each in stem.vision_model.stem.parameters() if each.ndim > 1)
    assert costs[1].traffic - costs[0].traffic == 4 * weights


@pytest.mark.parametrize("channels", [[], [6], [6, 12, 24], [6, 0], [6, 1.5], [6, True], "68", None])
def test_channels_that_do_not_fit_the_patches_are_refused(channels: object) -> None:
    with pytest.raises(UsageError) as caught:
        LrclrConfig(vision_config={**STEM, "stem_channels": channels})
    assert "vision_config.stem_channels" in str(caught.value)
