"""The embedding of patches as a product, which can be in int8."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from lrclr.model import LrclrModel

EMBEDDING = "embeddings.patch_embedding"
"""Name of the convolution over patches within every image tower."""


class PatchProduct(nn.Module):
    """A convolution over patches that do not overlap, as one product of all patches and a weight.

    Args:
        convolution: its stride is its kernel's size, and it has no padding.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.size = int(convolution.kernel_size[0])
        weight = convolution.weight.detach()
        self.projection = nn.Linear(weight[0].numel(), len(weight), bias=convolution.bias is not None)
        self.projection.weight.data = weight.flatten(1).clone()
        if convolution.bias is not None:
            self.projection.bias.data = convolution.bias.detach().clone()
        self.projection.requires_grad_(convolution.weight.requires_grad)

    @property
    def weight(self) -> Tensor:
        """A tensor of the type of the pixels. transformers' embeddings convert them to the type of the weight."""
        return torch.zeros(())

    def forward(self, pixel_values: Tensor) -> Tensor:
        """``[B, C, H, W]`` to ``[B, D, N]``: the convolution's output with its patches in one axis."""
        rows, columns = (side // self.size for side in pixel_values.shape[2:])
        inside = pixel_values[:, :, : rows * self.size, : columns * self.size]
        split = torch.unflatten(torch.unflatten(inside, 3, (columns, self.size)), 2, (rows, self.size))
        patches = split.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        embedded: Tensor = self.projection(patches)
        return embedded.transpose(1, 2)


def with_patch_product(model: LrclrModel) -> LrclrModel:
    """Return a copy of a network that embeds patches by a `PatchProduct`, if its convolution allows that."""
    changed: LrclrModel = copy.deepcopy(model)
    parent = changed.vision_model.embeddings
    convolution = parent.patch_embedding
    plain = isinstance(convolution, nn.Conv2d) and (
        convolution.stride == convolution.kernel_size
        and convolution.kernel_size[0] == convolution.kernel_size[1]
        and not any(convolution.padding)
        and set(convolution.dilation) == {1}
        and convolution.groups == 1
    )
    if plain:
        parent.patch_embedding = PatchProduct(convolution)
    changed.eval()
    return changed
