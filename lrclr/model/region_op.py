"""Region selection as one operator of torch, so that exporters do not look into it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lrclr.model.regions import Regions, select_regions

__all__ = ["select_regions_op"]


@torch.library.custom_op("lrclr::region_select", mutates_args=())
def _region_select(
    maps: Sequence[Tensor], tokens: Tensor, top_k: int, mean: bool, prefix: int
) -> tuple[Tensor, Tensor, Tensor]:
    picked = select_regions(maps, tokens, top_k, mean, prefix)
    return picked.tokens, picked.index, picked.importance


@_region_select.register_fake
def _(maps: Sequence[Tensor], tokens: Tensor, top_k: int, mean: bool, prefix: int) -> tuple[Tensor, Tensor, Tensor]:
    batch, _, width = tokens.shape
    regions = top_k * (1 if mean else maps[0].shape[1])
    return (
        tokens.new_empty((batch, regions + prefix, width)),
        tokens.new_empty((batch, regions), dtype=torch.int64),
        maps[0].new_empty((batch, regions), dtype=torch.float32),
    )


def select_regions_op(maps: Sequence[Tensor], tokens: Tensor, top_k: int, mean: bool, prefix: int) -> Regions:
    """`select_regions` as the operator ``torch.ops.lrclr.region_select``; it has no gradient."""
    return Regions(*_region_select(list(maps), tokens, top_k, mean, prefix))
