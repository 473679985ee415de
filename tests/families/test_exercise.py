"""Runs the exercise of docs/families/adding-a-family.md: a family that lrclr does not have."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lrclr.checkpoints import FAMILIES, load_checkpoint
from tests.families import networks

if TYPE_CHECKING:
    import pytest

PAGE = Path(__file__).parents[2] / "docs/families/adding-a-family.md"


@torch.no_grad()
def test_the_exercise_reads_chinese_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import ChineseCLIPConfig, ChineseCLIPModel

    text = PAGE.read_text(encoding="utf-8")
    match = re.search(r"<!-- the exercise.*?-->\n```python\n(.*?)```", text, re.DOTALL)
    assert match is not None
    module: dict[str, Any] = {}
    exec(compile(match[1], str(PAGE), "exec"), module)
    monkeypatch.setitem(FAMILIES, "chinese-clip", module["FAMILY"])
    # The page states the number of lines, with an import and an entry.
    assert f"That is {len(match[1].splitlines()) + 2} lines" in text

    torch.manual_seed(0)
    words = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    config = ChineseCLIPConfig(
        vision_config={**networks.VISION, **networks.IMAGE},
        text_config={**words, "vocab_size": len(networks.vocabulary()), "max_position_embeddings": 64},
        projection_dim=24,
    )
    network = networks.perturbed(ChineseCLIPModel(config))
    networks.saved(network, tmp_path)
    networks.write_vocabulary(tmp_path)
    read = load_checkpoint(tmp_path)
    assert read.config.family == "chinese-clip"
    tokens = read.tokenizer.encode(["edema", "no pleural effusion", ""])
    ids, mask = torch.from_numpy(tokens.input_ids), torch.from_numpy(tokens.mask)
    pixels = torch.randn(2, 3, 70, 70, generator=torch.Generator().manual_seed(0))
    out = network(input_ids=ids, pixel_values=pixels, attention_mask=mask)
    torch.testing.assert_close(read.model.encode_image(pixels).embedding, out.image_embeds, rtol=0, atol=1e-6)
    torch.testing.assert_close(read.model.encode_text(ids).embedding, out.text_embeds, rtol=0, atol=1e-6)
    logits = read.model(ids, pixels, mask).logits_per_image
    torch.testing.assert_close(logits, out.logits_per_image, rtol=0, atol=1e-5)
