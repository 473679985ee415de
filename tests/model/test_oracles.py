"""The network, compared with transformers' CLIP and with the statements of its docstrings."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel
from transformers.initialization import no_init_weights

from lrclr.errors import NonFiniteError, UsageError
from lrclr.model import LrclrConfig, LrclrModel

if TYPE_CHECKING:
    from pathlib import Path

    from lrclr.checkpoints import Checkpoint
    from tests.conftest import Prompts

TEXTS = ("Edema", "no Edema", "Enlarged Cardiomediastinum", "no Pleural Effusion")
EOT = 49407


def images(count: int, size: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def clip_twin(model: LrclrModel) -> Any:
    """transformers' own CLIP with eager attention and the same parameters."""
    config = model.config
    parts = {"text_config": config.text_config.to_dict(), "vision_config": config.vision_config.to_dict()}
    with no_init_weights():
        twin = CLIPModel._from_config(
            CLIPConfig(projection_dim=config.projection_dim, **parts), attn_implementation="eager"
        )
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("fusion_head.")}
    twin.load_state_dict(state, assign=True)
    for part in (twin, twin.text_model, twin.vision_model):
        assert part.config._attn_implementation == "eager"
    return twin.eval()


@torch.no_grad()
def assert_is_clip(model: LrclrModel, pixels: Tensor, ids: Tensor, mask: Tensor) -> None:
    clip = clip_twin(model)(input_ids=ids, pixel_values=pixels, attention_mask=mask)
    actual = model(ids, pixels, mask)
    for name in ("image_embeds", "text_embeds", "logits_per_image", "logits_per_text"):
        assert torch.equal(actual[name], clip[name]), name
    assert torch.equal(model.encode_image(pixels).embedding, clip.image_embeds)
    assert torch.equal(model.encode_text(ids).embedding, clip.text_embeds)
    words = mask.bool()  # transformers masks tokens after the end of a text. They are not read.
    assert torch.equal(model.encode_text(ids).tokens[words], clip.text_model_output.last_hidden_state[words])


@torch.no_grad()
def assert_pruning_changes_nothing(model: LrclrModel, pixels: Tensor) -> None:
    whole, pruned = model.encode_image(pixels), model.encode_image(pixels, prune=True)
    torch.testing.assert_close(pruned.embedding, whole.embedding, rtol=0, atol=1e-5)
    torch.testing.assert_close(pruned.regions.tokens, whole.regions.tokens, rtol=0, atol=1e-5)
    torch.testing.assert_close(pruned.regions.importance, whole.regions.importance, rtol=0, atol=1e-6)
    assert torch.equal(pruned.regions.index, whole.regions.index)


@pytest.mark.parametrize("rollout", ["per_head", "mean"])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_global_path_is_clip_bit_for_bit(
    tiny_model: LrclrModel, prompts: Prompts, rollout: str, batch: int
) -> None:
    tiny_model.config.region_rollout = rollout
    assert_is_clip(tiny_model, images(batch, 112), *prompts(*TEXTS))


@pytest.mark.parametrize("rollout", ["per_head", "mean"])
def test_pruning_the_last_block_changes_nothing(tiny_model: LrclrModel, rollout: str) -> None:
    tiny_model.config.region_rollout = rollout
    assert_pruning_changes_nothing(tiny_model, images(3, 112))


def test_vit_b_32_is_clip_bit_for_bit(base_checkpoint: Checkpoint, prompts: Prompts) -> None:
    model, pixels = base_checkpoint.model, images(2, 224)
    assert model.config.num_regions == 12
    assert_is_clip(model, pixels, *prompts(*TEXTS))
    assert_pruning_changes_nothing(model, pixels)


@torch.no_grad()
def test_the_forward_methods_of_the_towers_equal_clips(tiny_model: LrclrModel, prompts: Prompts) -> None:
    # They use transformers' mask creation, which omits the causal mask for an attention it does not know.
    ids, mask = prompts(*TEXTS)
    pixels, twin = images(2, 112), clip_twin(tiny_model)
    actual, expected = tiny_model.text_model(ids, mask), twin.text_model(ids, mask)
    assert torch.equal(actual.pooler_output, expected.pooler_output)
    assert torch.equal(actual.last_hidden_state, expected.last_hidden_state)
    assert torch.equal(tiny_model.vision_model(pixels).pooler_output, twin.vision_model(pixels).pooler_output)


@torch.no_grad()
def test_regions_do_not_depend_on_the_rest_of_the_batch(tiny_model: LrclrModel) -> None:
    pixels = images(7, 112)
    together = tiny_model.encode_image(pixels)
    for rows in ([0], [3], [6, 2], [5, 4, 3, 2, 1, 0]):
        apart = tiny_model.encode_image(pixels[rows])
        assert torch.equal(apart.regions.index, together.regions.index[rows])
        torch.testing.assert_close(apart.regions.importance, together.regions.importance[rows], rtol=0, atol=1e-6)
        torch.testing.assert_close(apart.embedding, together.embedding[rows], rtol=0, atol=1e-6)
    # The images have different regions. Otherwise the test would show nothing.
    assert len({tuple(row.tolist()) for row in together.regions.index}) > 1


@torch.no_grad()
def test_tokens_after_the_end_of_a_text_are_ignored(tiny_model: LrclrModel, prompts: Prompts) -> None:
    ids, mask = prompts(*TEXTS, length=20)
    plain = tiny_model.encode_text(ids)
    for seed in range(5):
        noise = torch.randint(0, EOT + 1, ids.shape, generator=torch.Generator().manual_seed(seed))
        noise[:, -1] = EOT  # the first end token counts, also if there is a second one
        other = tiny_model.encode_text(torch.where(mask.bool(), ids, noise))
        assert torch.equal(other.embedding, plain.embedding)
        assert torch.equal(other.tokens[mask.bool()], plain.tokens[mask.bool()])


@torch.no_grad()
def test_padding_is_ignored(tiny_model: LrclrModel, prompts: Prompts) -> None:
    regions = tiny_model.encode_image(images(3, 112)).regions.tokens
    ids, mask = prompts(*TEXTS)
    short = tiny_model.encode_text(ids)
    score, attention = tiny_model.fusion_head(regions, short.tokens, mask)
    for length in (ids.shape[1] + 1, 32, 77):
        long_ids, long_mask = prompts(*TEXTS, length=length)
        padded = tiny_model.encode_text(long_ids)
        torch.testing.assert_close(padded.embedding, short.embedding, rtol=0, atol=1e-6)
        long_score, long_attention = tiny_model.fusion_head(regions, padded.tokens, long_mask)
        torch.testing.assert_close(long_score, score, rtol=0, atol=1e-6)
        torch.testing.assert_close(long_attention, attention, rtol=0, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("prune", [False, True])
def test_a_pixel_that_is_not_finite_is_refused(tiny_model: LrclrModel, value: float, *, prune: bool) -> None:
    pixels = images(2, 112)
    pixels[1, 0, 50, 50] = value
    with pytest.raises(NonFiniteError, match="not finite"):
        tiny_model.encode_image(pixels, prune=prune)


def test_the_loss_is_the_symmetric_contrastive_loss(tiny_model: LrclrModel, prompts: Prompts) -> None:
    tiny_model.config.local_loss_weight = 0.25
    ids, mask = prompts(*TEXTS)
    output = tiny_model(ids, images(4, 112), mask, return_loss=True)

    def contrastive(logits: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for row in range(4):
            for line in (logits[row], logits[:, row]):
                total -= line[row] - line.exp().sum().log()
        return total / 8

    scale = tiny_model.logit_scale.double().exp()
    cosine = output.image_embeds.double() @ output.text_embeds.double().t()
    expected = contrastive(scale * cosine) + 0.25 * contrastive(scale * output.local_score.double())
    torch.testing.assert_close(output.loss.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_reach_every_parameter(tiny_model: LrclrModel, prompts: Prompts, *, checkpointing: bool) -> None:
    ids, mask = prompts(*TEXTS)
    tiny_model.train().requires_grad_(True)
    if checkpointing:
        for tower in (tiny_model.text_model, tiny_model.vision_model):
            tower.activation_checkpointing_enable()
    tiny_model(ids, images(4, 112), mask, return_loss=True).loss.backward()
    # A key's bias shifts a whole row of scores equally. softmax cancels this shift, and its gradient.
    names = [name for name, _ in tiny_model.named_parameters() if not name.endswith(("k_proj.bias", "key.bias"))]
    gradients = {name: parameter.grad for name, parameter in tiny_model.named_parameters()}
    still = [name for name in names if gradients[name] is None or not bool(gradients[name].abs().max() > 0)]
    assert not still
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients.values() if gradient is not None)


def test_a_loss_needs_one_prompt_for_each_image(tiny_model: LrclrModel, prompts: Prompts) -> None:
    ids, mask = prompts(*TEXTS)
    with pytest.raises(UsageError, match="got 3 images, 4 prompts"):
        tiny_model(ids, images(3, 112), mask, return_loss=True)
    assert tiny_model(ids, images(3, 112), mask).loss is None


@torch.no_grad()
def test_half_precision_is_close_to_single(tiny_model: LrclrModel, prompts: Prompts) -> None:
    ids, mask = prompts(*TEXTS)
    pixels = images(3, 112)
    whole = tiny_model(ids, pixels, mask)
    half = copy.deepcopy(tiny_model).half()(ids, pixels, mask)
    for name, tensor in half.items():
        assert bool(torch.isfinite(tensor).all()), name
        assert tensor.dtype in (torch.float32, torch.int64), name
    torch.testing.assert_close(half.image_embeds, whole.image_embeds, rtol=0, atol=5e-3)
    torch.testing.assert_close(half.text_embeds, whole.text_embeds, rtol=0, atol=5e-3)
    torch.testing.assert_close(half.local_score, whole.local_score, rtol=0, atol=1e-2)
    torch.testing.assert_close(half.region_attention.sum(-1), torch.ones(3, 4))


def configuration_of(model: LrclrModel) -> dict[str, Any]:
    """The configuration without transformers' notes about its file."""
    noted = {"_name_or_path", "dtype", "architectures"}

    def strip(table: dict[str, Any]) -> dict[str, Any]:
        kept = {name: value for name, value in table.items() if name not in noted}
        return {name: strip(value) if isinstance(value, dict) else value for name, value in kept.items()}

    return strip(model.config.to_dict())


@torch.no_grad()
def test_save_pretrained_round_trip(tiny_model: LrclrModel, prompts: Prompts, tmp_path: Path) -> None:
    ids, mask = prompts(*TEXTS)
    tiny_model.config.fusion_trained, tiny_model.config.alpha = True, 0.3
    tiny_model.save_pretrained(tmp_path)
    again = LrclrModel.from_pretrained(tmp_path, local_files_only=True)
    assert configuration_of(again) == configuration_of(tiny_model)
    assert again.state_dict().keys() == tiny_model.state_dict().keys()
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in tiny_model.state_dict().items())
    pixels = images(2, 112)
    first, second = tiny_model(ids, pixels, mask), again(ids, pixels, mask)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_fusion_head_initialises_its_own_weights(quiet_transformers: None) -> None:
    torch.manual_seed(0)
    head = LrclrModel(LrclrConfig(fusion_hidden_size=64, **SMALL_TOWERS)).requires_grad_(False).fusion_head
    for name, module in head.named_modules():
        if isinstance(module, nn.LayerNorm):
            assert bool((module.weight == 1).all()), name
            assert bool((module.bias == 0).all()), name
        elif isinstance(module, nn.Linear):
            assert float(module.weight.std()) == pytest.approx(module.in_features**-0.5, rel=0.1), name
            assert module.bias is None or bool((module.bias == 0).all()), name
    assert 0.015 < float(head.modality_embedding.std()) < 0.025


SMALL_TOWERS: dict[str, Any] = {
    "projection_dim": 16,
    "text_config": {
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "vocab_size": 100,
        "eos_token_id": 99,
    },
    "vision_config": {
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 64,
        "patch_size": 16,
    },
}
