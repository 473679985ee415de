"""The cross-modality fusion head: joint self-attention over ``[CLS, regions | words, EOT]`` of image-prompt pairs."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from lrclr.model.attention import attend, split_heads
from lrclr.model.towers.tower import LinearGroup

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lrclr.model.configuration import LrclrConfig

_CLS, _REGION, _WORD, _EOT = range(4)


class FusionLinear(nn.Linear):
    """A linear map of the fusion head; a type of its own, by which the model knows it when it draws weights."""


class FusionHead(nn.Module):
    """Scores a prompt against an image's regions, and says which regions the prompt attends to.

    The local score is the cosine of the fused CLS and the fused EOT vector, so it has the range of the global score.
    The region attention of a prompt is the last block's attention of EOT on the regions, averaged over its heads and
    normalised over the regions.

    Attributes:
        regions_in_float32: whether `image_norm` takes region tokens in float32, which float16 may not hold, and gives
            what it computes in the type of the weights.
    """

    regions_in_float32 = False

    def __init__(self, config: LrclrConfig) -> None:
        super().__init__()
        width = config.fusion_hidden_size
        eps = config.vision_config.layer_norm_eps
        self.image_norm = nn.LayerNorm(config.vision_config.hidden_size, eps=eps)
        self.image_projection = FusionLinear(config.vision_config.hidden_size, width)
        self.text_projection = FusionLinear(config.text_config.hidden_size, width)
        self.modality_embedding = nn.Parameter(torch.zeros(4, width))
        self.blocks = nn.ModuleList(
            FusionBlock(width, config.fusion_num_heads, config.fusion_intermediate_size, eps)
            for _ in range(config.fusion_num_layers)
        )
        self.image_head = nn.Sequential(nn.LayerNorm(width, eps=eps), FusionLinear(width, width, bias=False))
        self.text_head = nn.Sequential(nn.LayerNorm(width, eps=eps), FusionLinear(width, width, bias=False))

    def forward(self, region_tokens: Tensor, text_tokens: Tensor, text_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Score every prompt against every image.

        Args:
            region_tokens: ``[B, 1+R, D_image]``, CLS first.
            text_tokens: ``[P, T, D_text]``.
            text_mask: ``[P, T]``, 1 up to and including EOT, then 0.

        Returns:
            ``local_score [B, P]`` and ``region_attention [B, P, R]``, float32.
        """
        dtype = self.image_projection.weight.dtype
        images, prompts = region_tokens.shape[0], text_tokens.shape[0]
        num_regions = region_tokens.shape[1] - 1
        end = text_mask.to(torch.int64).sum(-1) - 1
        image = self._image_side(region_tokens if self.regions_in_float32 else region_tokens.to(dtype))
        text = self._text_side(text_tokens.to(dtype), end)
        mask = _key_mask(text_mask, num_regions + 1)

        # CLS and EOT are the only rows whose last output is read.
        read = torch.stack([torch.zeros_like(end), num_regions + 1 + end], dim=-1).repeat(images, 1)
        mask = mask.repeat(images, 1, 1, 1)
        blocks = cast("list[FusionBlock]", list(self.blocks))
        # Before the first attention a token does not depend on its pair: norm, projections and the split into heads run
        # once a side.
        sides = zip(blocks[0].project(image), blocks[0].project(text), strict=True)
        query, key, value = (_pair(of_image, of_text) for of_image, of_text in sides)
        hidden = _pair(image, text)
        # Where gradients are made, a parameter that no output needs would hold up processes that wait for its own.
        in_full = len(blocks) == 1 or (torch.is_grad_enabled() and blocks[-1].key.bias.requires_grad)
        for block, following in itertools.pairwise(blocks):
            hidden, _ = block(hidden, query, key, value, mask)
            if following is not blocks[-1] or in_full:
                query, key, value = following.project(hidden)
        if in_full:
            hidden, attention = blocks[-1](_rows(hidden, read), _rows(query, read.unsqueeze(1)), key, value, mask)
        else:
            hidden, attention = blocks[-1].read(hidden, read, mask)
        cls = nn.functional.normalize(self.image_head(hidden[:, 0]).float(), dim=-1)
        eot = nn.functional.normalize(self.text_head(hidden[:, 1]).float(), dim=-1)
        on_regions = attention[:, :, 1, 1 : num_regions + 1].mean(1)
        on_regions = on_regions / on_regions.sum(-1, keepdim=True)
        return (cls * eot).sum(-1).view(images, prompts), on_regions.view(images, prompts, num_regions)

    def linear_groups(self) -> Iterator[LinearGroup]:
        """The linear layers that run for every token of every pair: those of all blocks but the last."""
        for number in range(len(self.blocks) - 1):
            block = f"blocks.{number}"
            if number:
                projections = tuple(f"{block}.{name}" for name in ("query", "key", "value"))
                yield LinearGroup(f"{block}.qkv", projections, f"{block}.attention_norm")
            yield LinearGroup(f"{block}.output", (f"{block}.output",), None)
            yield LinearGroup(f"{block}.mlp.0", (f"{block}.mlp.0",), f"{block}.mlp_norm")
            yield LinearGroup(f"{block}.mlp.2", (f"{block}.mlp.2",), None)

    def _image_side(self, tokens: Tensor) -> Tensor:
        kinds = self.modality_embedding
        projected: Tensor = self.image_projection(self.image_norm(tokens))
        return torch.cat([projected[:, :1] + kinds[_CLS], projected[:, 1:] + kinds[_REGION]], dim=1)

    def _text_side(self, tokens: Tensor, end: Tensor) -> Tensor:
        kinds = self.modality_embedding
        position = torch.arange(tokens.shape[1], device=tokens.device)
        is_end = (position == end.unsqueeze(-1)).unsqueeze(-1)
        projected: Tensor = self.text_projection(tokens)
        return projected + torch.where(is_end, kinds[_EOT], kinds[_WORD])


class FusionBlock(nn.Module):
    """A pre-LN transformer block whose query, key and value projections can be run apart from the rest."""

    def __init__(self, width: int, heads: int, intermediate: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.scaling = (width // heads) ** -0.5
        self.attention_norm = nn.LayerNorm(width, eps=eps)
        self.query, self.key, self.value = (FusionLinear(width, width) for _ in range(3))
        self.output = FusionLinear(width, width)
        self.mlp_norm = nn.LayerNorm(width, eps=eps)
        self.mlp = nn.Sequential(FusionLinear(width, intermediate), nn.GELU(), FusionLinear(intermediate, width))

    def project(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value of tokens ``[X, N, W]``, all ``[X, heads, N, C]``."""
        normed = self.attention_norm(hidden)
        query, key, value = (split_heads(one(normed), self.heads) for one in (self.query, self.key, self.value))
        return query, key, value

    def forward(self, hidden: Tensor, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Attend and transform.

        Args:
            hidden: ``[X, Q, W]``, the tokens whose output is wanted.
            query: ``[X, heads, Q, C]``, theirs.
            key, value: ``[X, heads, N, C]``, of all tokens.
            mask: ``[X, 1, 1, N]``, additive.

        Returns:
            ``[X, Q, W]`` and the attention probabilities ``[X, heads, Q, N]`` in float32.
        """
        mixed, attention = attend(query, key, value, mask, self.scaling)
        return self._transformed(hidden, mixed), attention

    def read(self, hidden: Tensor, rows: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Project, attend and transform for few of the tokens; the same up to rounding.

        Keys and values of all tokens are never made, and the bias of the keys is not used. A score is
        ``q·(K h + b) = (q K)·h + q·b``, whose last term is the same for all keys and drops out of the softmax; and
        since a row of attention sums to one, mixing values is mixing tokens first and projecting the mixture. Both
        cost by the row that is read instead of by the token.

        Args:
            hidden: ``[X, N, W]``, all tokens.
            rows: ``[X, Q]``, which of them are read.
            mask: ``[X, 1, 1, N]``, additive.

        Returns:
            As `forward`.
        """
        normed = self.attention_norm(hidden)
        query = split_heads(self.query(_rows(normed, rows)), self.heads)
        to_tokens = torch.unflatten(self.key.weight, 0, (self.heads, -1))
        to_values = torch.unflatten(self.value.weight, 0, (self.heads, -1)).transpose(1, 2)
        # Rows of all heads together: they meet the same tokens, so each pair needs one product instead of one a head.
        asked = _by_head(query, to_tokens).reshape(hidden.shape[0], 1, -1, hidden.shape[-1])
        tokens = normed.unsqueeze(1)
        mixed, attention = attend(asked, tokens, tokens, mask, self.scaling)
        mixed, attention = (torch.unflatten(each.squeeze(1), 1, (self.heads, -1)) for each in (mixed, attention))
        bias = split_heads(self.value.bias.expand(1, 1, -1), self.heads)
        mixed = _by_head(mixed, to_values) + bias
        return self._transformed(_rows(hidden, rows), mixed), attention

    def _transformed(self, hidden: Tensor, mixed: Tensor) -> Tensor:
        hidden = hidden + self.output(mixed.transpose(1, 2).reshape(hidden.shape))
        transformed: Tensor = hidden + self.mlp(self.mlp_norm(hidden))
        return transformed


def _rows(tokens: Tensor, rows: Tensor) -> Tensor:
    """Rows ``[X, Q]`` of tokens ``[X, N, W]``, or ``[X, 1, Q]`` of tokens ``[X, heads, N, C]``."""
    return tokens.gather(-2, rows.unsqueeze(-1).expand(*tokens.shape[:-2], -1, tokens.shape[-1]))


def _by_head(tokens: Tensor, weight: Tensor) -> Tensor:
    """``[X, H, Q, A]`` times each head's ``[H, A, B]``, as one product a head: ``[X, H, Q, B]``."""
    pairs, heads, rows, _ = tokens.shape
    product = torch.matmul(tokens.transpose(0, 1).reshape(heads, pairs * rows, -1), weight)
    return product.view(heads, pairs, rows, -1).transpose(0, 1)


def _pair(image: Tensor, text: Tensor) -> Tensor:
    """``[B, ..., N, W]`` and ``[P, ..., T, W]`` to the tokens of all pairs ``[B*P, ..., N+T, W]``, image by image."""
    images, prompts = image.shape[0], text.shape[0]
    left = image.unsqueeze(1).expand(-1, prompts, *image.shape[1:])
    right = text.unsqueeze(0).expand(images, *text.shape)
    pairs = torch.cat([left, right], dim=-2)
    return pairs.reshape(images * prompts, *pairs.shape[2:])


def _key_mask(text_mask: Tensor, image_tokens: int) -> Tensor:
    """Additive float32 mask ``[P, 1, 1, N+T]``: image tokens are always seen, padding never."""
    padding = (text_mask.float() - 1.0) * torch.finfo(torch.float32).max
    return nn.functional.pad(padding, (image_tokens, 0))[:, None, None, :]
