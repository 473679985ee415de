"""The fusion head, compared with its formulas, computed pair by pair in float64 with NumPy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from lrclr.model import LrclrConfig
from lrclr.model.fusion import FusionHead

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    Array = NDArray[np.float64]

IMAGE_WIDTH, TEXT_WIDTH = 48, 40


def head(layers: int = 2, heads: int = 4, width: int = 32, seed: int = 0) -> FusionHead:
    """A fusion head in which every parameter matters: biases and norms are random, too."""
    config = LrclrConfig(
        vision_config={"hidden_size": IMAGE_WIDTH, "num_attention_heads": 4},
        text_config={"hidden_size": TEXT_WIDTH, "num_attention_heads": 4},
        fusion_hidden_size=width,
        fusion_num_layers=layers,
        fusion_num_heads=heads,
        fusion_intermediate_size=2 * width,
    )
    fusion_head = FusionHead(config).eval().requires_grad_(False)
    random = torch.Generator().manual_seed(seed)
    for name, parameter in fusion_head.named_parameters():
        scale = 2.0 * parameter.shape[-1] ** -0.5 if parameter.ndim == 2 else 0.3
        noise = torch.randn(parameter.shape, generator=random) * scale
        parameter.copy_(1 + noise if "norm.weight" in name else noise)
    return fusion_head


@dataclass
class Inputs:
    """Region tokens of B images, and text tokens and masks of P prompts of different lengths."""

    regions: Tensor
    text: Tensor
    mask: Tensor


def inputs(images: int, lengths: list[int], regions: int = 6, seed: int = 1) -> Inputs:
    random = torch.Generator().manual_seed(seed)
    longest = max(lengths)
    return Inputs(
        torch.randn(images, 1 + regions, IMAGE_WIDTH, generator=random),
        torch.randn(len(lengths), longest, TEXT_WIDTH, generator=random),
        (torch.arange(longest) < torch.tensor(lengths).unsqueeze(-1)).long(),
    )


class Reference:
    """The formulas of the head for one image and one prompt without padding."""

    def __init__(self, fusion_head: FusionHead, heads: int) -> None:
        self.weights: dict[str, Array] = {
            name: tensor.double().numpy() for name, tensor in fusion_head.state_dict().items()
        }
        self.heads = heads

    def linear(self, name: str, x: Array) -> Array:
        product: Array = x @ self.weights[f"{name}.weight"].T
        return product + self.weights.get(f"{name}.bias", 0.0)

    def norm(self, name: str, x: Array) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        normed: Array = scaled * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]
        return normed

    def attention(self, block: str, x: Array) -> tuple[Array, Array]:
        query, key, value = (self.linear(f"{block}.{name}", x) for name in ("query", "key", "value"))
        width = x.shape[1] // self.heads
        outputs, maps = [], []
        for number in range(self.heads):
            part = slice(number * width, (number + 1) * width)
            scores = query[:, part] @ key[:, part].T / math.sqrt(width)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            weights /= weights.sum(-1, keepdims=True)
            outputs.append(weights @ value[:, part])
            maps.append(weights)
        return self.linear(f"{block}.output", np.concatenate(outputs, axis=1)), np.stack(maps)

    def __call__(self, regions: Array, words: Array) -> tuple[float, Array]:
        cls, region, word, eot = self.weights["modality_embedding"]
        image = self.linear("image_projection", self.norm("image_norm", regions))
        image = image + np.stack([cls] + [region] * (len(regions) - 1))
        text = self.linear("text_projection", words) + np.stack([word] * (len(words) - 1) + [eot])
        x = np.concatenate([image, text])
        maps = np.empty(0)
        for number in range(sum(name.endswith("query.weight") for name in self.weights)):
            mixed, maps = self.attention(f"blocks.{number}", self.norm(f"blocks.{number}.attention_norm", x))
            x = x + mixed
            hidden = self.linear(f"blocks.{number}.mlp.0", self.norm(f"blocks.{number}.mlp_norm", x))
            gelu = hidden * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2))) / 2
            x = x + self.linear(f"blocks.{number}.mlp.2", gelu)
        image_vector = self.linear("image_head.1", self.norm("image_head.0", x[0]))
        text_vector = self.linear("text_head.1", self.norm("text_head.0", x[-1]))
        score = float(image_vector @ text_vector / np.linalg.norm(image_vector) / np.linalg.norm(text_vector))
        on_regions = maps[:, -1, 1 : len(regions)].mean(0)
        return score, on_regions / on_regions.sum()


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize(("images", "lengths"), [(3, [7, 2, 12, 5, 12]), (4, [9, 3]), (1, [2])])
def test_the_head_equals_its_formulas(layers: int, heads: int, images: int, lengths: list[int]) -> None:
    fusion_head, given = head(layers, heads), inputs(images, lengths)
    score, attention = fusion_head(given.regions, given.text, given.mask)
    assert score.shape == (images, len(lengths))
    assert attention.shape == (images, len(lengths), 6)
    assert score.dtype == attention.dtype == torch.float32
    reference = Reference(fusion_head, heads)
    for image in range(images):
        for prompt, length in enumerate(lengths):
            words = given.text[prompt, :length].double().numpy()
            expected, on_regions = reference(given.regions[image].double().numpy(), words)
            assert float(score[image, prompt]) == pytest.approx(expected, abs=1e-5)
            np.testing.assert_allclose(attention[image, prompt].numpy(), on_regions, rtol=0, atol=1e-5)
    torch.testing.assert_close(attention.sum(-1), torch.ones(images, len(lengths)))
    # The pairs differ. Otherwise a wrong order would not be noticed.
    assert score.flatten().unique().numel() == score.numel()


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.float32, torch.bool])
def test_masks_of_any_type_are_accepted(dtype: torch.dtype) -> None:
    fusion_head, given = head(), inputs(2, [4, 6, 3])
    expected = fusion_head(given.regions, given.text, given.mask)
    for first, second in zip(fusion_head(given.regions, given.text, given.mask.to(dtype)), expected, strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("size", [0.0, 1.0, 1e4])
def test_masked_tokens_are_ignored(size: float) -> None:
    fusion_head, given = head(), inputs(3, [4, 9, 3, 6])
    garbage = torch.randn(given.text.shape, generator=torch.Generator().manual_seed(5)) * size
    changed = torch.where(given.mask.bool().unsqueeze(-1), given.text, garbage)
    assert not torch.equal(changed, given.text)
    score, attention = fusion_head(given.regions, given.text, given.mask)
    other_score, other_attention = fusion_head(given.regions, changed, given.mask)
    assert torch.equal(other_score, score)
    assert torch.equal(other_attention, attention)


def test_a_pair_does_not_depend_on_other_pairs() -> None:
    fusion_head, given = head(), inputs(5, [4, 9, 3, 6])
    score, attention = fusion_head(given.regions, given.text, given.mask)
    for image, prompt in [(0, 0), (4, 1), (2, 3)]:
        alone: tuple[Any, Any] = fusion_head(
            given.regions[image : image + 1], given.text[prompt : prompt + 1], given.mask[prompt : prompt + 1]
        )
        torch.testing.assert_close(alone[0][0, 0], score[image, prompt], rtol=0, atol=1e-6)
        torch.testing.assert_close(alone[1][0, 0], attention[image, prompt], rtol=0, atol=1e-6)


def test_scores_are_cosines() -> None:
    fusion_head, given = head(), inputs(8, [5] * 9)
    score, attention = fusion_head(given.regions * 100, given.text * 100, given.mask)
    assert bool((score.abs() <= 1 + 1e-6).all())
    assert bool((attention >= 0).all())


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_training_and_evaluation_give_the_same_scores(layers: int) -> None:
    """Evaluation skips keys and values in the last block. Training needs every parameter in its graph."""
    fusion_head, given = head(layers), inputs(3, [4, 7, 2])
    evaluated = fusion_head(given.regions, given.text, given.mask)
    trained = fusion_head.train()(given.regions, given.text, given.mask)
    for first, second in zip(evaluated, trained, strict=True):
        assert first.numpy() == pytest.approx(second.numpy(), abs=2e-6)
    fusion_head.requires_grad_(True)
    fusion_head(given.regions, given.text, given.mask)[0].sum().backward()
    assert all(parameter.grad is not None for parameter in fusion_head.parameters())
