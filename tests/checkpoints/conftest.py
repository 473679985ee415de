"""A CLIP with OpenAI's parameter names, written from the names and shapes of the published state dicts."""

from __future__ import annotations

import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable

    OpenAiFactory = Callable[..., "OpenAiClip"]


@dataclass(frozen=True)
class Sizes:
    """Sizes of an OpenAI CLIP. A bare state dict is read only if the vocabulary has CLIP's size."""

    width: int = 128
    layers: int = 2
    patch: int = 16
    grid: int = 3
    text_width: int = 64
    text_layers: int = 2
    context: int = 77
    dimension: int = 24
    vocabulary: int = 49408
    head_width: int = 64
    text_head_width: int = 64
    gelu: bool = False


class QuickGelu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Mlp(nn.Module):
    def __init__(self, width: int, gelu: bool) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.gelu = nn.GELU() if gelu else QuickGelu()
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(self.gelu(self.c_fc(x)))  # type: ignore[no-any-return]


class Block(nn.Module):
    def __init__(self, width: int, head_width: int, gelu: bool) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, width // head_width, batch_first=True)
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = Mlp(width, gelu)
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, normed, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))  # type: ignore[no-any-return]


class Transformer(nn.Module):
    def __init__(self, width: int, layers: int, head_width: int, gelu: bool) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, head_width, gelu) for _ in range(layers))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        for block in self.resblocks:
            x = block(x, mask)
        return x


class Visual(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, sizes.width, sizes.patch, stride=sizes.patch, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(sizes.width))
        self.positional_embedding = nn.Parameter(torch.randn(sizes.grid**2 + 1, sizes.width) * 0.3)
        self.ln_pre = nn.LayerNorm(sizes.width)
        self.transformer = Transformer(sizes.width, sizes.layers, sizes.head_width, sizes.gelu)
        self.ln_post = nn.LayerNorm(sizes.width)
        self.proj = nn.Parameter(torch.randn(sizes.width, sizes.dimension) * 0.1)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.conv1(pixels).flatten(2).permute(0, 2, 1)
        cls = self.class_embedding.expand(patches.shape[0], 1, -1)
        x = self.ln_pre(torch.cat([cls, patches], dim=1) + self.positional_embedding)
        x = self.transformer(x, torch.zeros(x.shape[1], x.shape[1]))
        return self.ln_post(x[:, 0]) @ self.proj  # type: ignore[no-any-return]


class OpenAiClip(nn.Module):
    """CLIP with OpenAI's names and right-multiplied projections. The highest token number ends a text."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.visual = Visual(sizes)
        self.transformer = Transformer(sizes.text_width, sizes.text_layers, sizes.text_head_width, sizes.gelu)
        self.token_embedding = nn.Embedding(sizes.vocabulary, sizes.text_width)
        self.positional_embedding = nn.Parameter(torch.randn(sizes.context, sizes.text_width) * 0.3)
        self.ln_final = nn.LayerNorm(sizes.text_width)
        self.text_projection = nn.Parameter(torch.randn(sizes.text_width, sizes.dimension) * 0.1)
        self.logit_scale = nn.Parameter(torch.tensor(2.5))
        # As in OpenAI's modules: an attribute, not a buffer.
        self.attn_mask = torch.full((sizes.context, sizes.context), float("-inf")).triu(1)

    def forward(self, pixels: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        length = ids.shape[1]
        x = self.token_embedding(ids) + self.positional_embedding[:length]
        x = self.ln_final(self.transformer(x, self.attn_mask[:length, :length]))
        text = x[torch.arange(ids.shape[0]), ids.argmax(dim=-1)] @ self.text_projection
        return nn.functional.normalize(self.visual(pixels), dim=-1), nn.functional.normalize(text, dim=-1)


@pytest.fixture(scope="session")
def openai_clip(quiet_transformers: None) -> OpenAiFactory:
    """A factory of OpenAI CLIPs with random weights, none of which keeps the initial value 0 or 1."""

    def make(**sizes: Any) -> OpenAiClip:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(1)
            model = OpenAiClip(Sizes(**sizes)).eval().requires_grad_(False)
            for name, parameter in model.named_parameters():
                if "bias" in name or ".ln_" in name:
                    parameter.add_(torch.randn_like(parameter), alpha=0.1)
        return model

    return make


@pytest.fixture(scope="session")
def small_openai(openai_clip: OpenAiFactory) -> OpenAiClip:
    """A small OpenAI CLIP. Shared: do not change it."""
    return openai_clip()


@pytest.fixture
def state(small_openai: OpenAiClip) -> dict[str, Tensor]:
    """The state dict of `small_openai`. Tests may change it."""
    return dict(small_openai.state_dict())


@pytest.fixture
def torchscript(small_openai: OpenAiClip, tmp_path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(small_openai), str(tmp_path / "script.pt"))
    return tmp_path / "script.pt"


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint folder. Tests may damage it."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "checkpoint"))
