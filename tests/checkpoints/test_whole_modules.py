"""Modules that were saved whole: what they compute is read from their settings, or refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn
from transformers import CLIPConfig, CLIPModel

from lrclr.checkpoints import load_checkpoint
from tests.checkpoints.spoiling import refusal
from tests.families.networks import open_clip_clip, perturbed

if TYPE_CHECKING:
    from pathlib import Path

    from lrclr.checkpoints import Checkpoint

PIXELS = torch.randn(2, 3, 70, 70, generator=torch.Generator().manual_seed(0))
IDS = torch.tensor([[49406, 1929, 3, 49407], [49406, 49405, 4, 49407]])


def whole(folder: Path, *, custom: bool, text: dict[str, Any], **vision: Any) -> tuple[Path, Any]:
    """Save a module of open_clip."""
    _, config = open_clip_clip(18, 2.0, custom=custom, quick_gelu=False, **vision)
    import open_clip  # after the stub of torchvision, which `open_clip_clip` installs

    config["text_cfg"] |= text
    made = (open_clip.model.CustomTextCLIP if custom else open_clip.model.CLIP)(**config)
    model = perturbed(made).eval()
    torch.save({"epoch": 3, "model": model}, folder / "whole.pt")
    return folder / "whole.pt", model


def assert_same(read: Checkpoint, images: torch.Tensor, texts: torch.Tensor) -> None:
    with torch.no_grad():
        ours = read.model(IDS, PIXELS, torch.ones_like(IDS))
    for name, expected in (("image_embeds", images), ("text_embeds", texts)):
        torch.testing.assert_close(ours[name], nn.functional.normalize(expected, dim=-1), rtol=0, atol=2e-6)


@pytest.mark.parametrize("custom", [False, True])
@pytest.mark.parametrize(
    "settings", [{"norm_kwargs": {"eps": 1e-2}}, {"act_kwargs": {"approximate": "tanh"}}], ids=["epsilon", "tanh"]
)
def test_what_a_module_records_is_taken(tmp_path: Path, settings: dict[str, Any], *, custom: bool) -> None:
    path, model = whole(tmp_path, custom=custom, text=settings, **settings)
    read = load_checkpoint(path)
    assert read.assumed == ("preprocessing: chexzero",)
    ids = nn.functional.pad(IDS, (0, 36))
    with torch.no_grad():
        assert_same(read, model.encode_image(PIXELS), model.encode_text(ids))


@pytest.mark.parametrize("custom", [False, True])
@pytest.mark.parametrize(
    ("vision", "text", "words"),
    [
        ({"pool_type": "avg"}, {}, "the pooling of its image tower is 'avg'"),
        ({}, {"pool_type": "last"}, "the pooling of its text tower is 'last'"),
        ({}, {"no_causal_mask": True}, "not causal"),
    ],
)
def test_what_lrclr_does_not_compute_is_refused(
    tmp_path: Path, vision: dict[str, Any], text: dict[str, Any], words: str, *, custom: bool
) -> None:
    assert words in refusal(whole(tmp_path, custom=custom, text=text, **vision)[0])


def test_a_mask_that_is_not_causal_is_refused(tmp_path: Path) -> None:
    path, model = whole(tmp_path, custom=False, text={})
    model.attn_mask.fill_(0)
    torch.save(model, path)
    assert "not causal" in refusal(path)


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu", "relu"])
def test_a_module_of_transformers(tmp_path: Path, activation: str) -> None:
    tower = {"hidden_act": activation, "num_hidden_layers": 2, "num_attention_heads": 4, "layer_norm_eps": 1e-3}
    config = CLIPConfig(
        projection_dim=24,
        vision_config={**tower, "hidden_size": 72, "intermediate_size": 96, "image_size": 70, "patch_size": 14},
        text_config={**tower, "hidden_size": 48, "intermediate_size": 96},
    )
    model = perturbed(CLIPModel(config)).eval()
    torch.save(model, tmp_path / "whole.pt")
    if activation == "relu":
        assert "it has the activation ReLU" in refusal(tmp_path / "whole.pt")
        return
    read = load_checkpoint(tmp_path / "whole.pt")
    assert [line.partition(":")[0] for line in read.assumed] == ["pooling", "attention", "preprocessing"]
    with torch.no_grad():
        theirs = model(input_ids=IDS, pixel_values=PIXELS)
    assert_same(read, theirs.image_embeds, theirs.text_embeds)
