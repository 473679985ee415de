"""Local region selection: attention rollout of the CLS row, top-k, gather."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lrclr.errors import NonFiniteError


class Regions(NamedTuple):
    """What region selection makes of an image.

    Attributes:
        tokens: ``[B, 1+R, D]``, the gathered rows, CLS first.
        index: ``[B, R]`` int64, patch numbers, row-major.
        importance: ``[B, R]`` float32, the rollout's weight of each patch.
    """

    tokens: Tensor
    index: Tensor  # type: ignore[assignment]  # a field may hide tuple's method
    importance: Tensor


SelectRegions = Callable[[Sequence[Tensor], Tensor, int, bool], Regions]


def rollout_cls_row(maps: Sequence[Tensor], *, mean: bool) -> Tensor:
    """Attention that CLS pays to each patch through all layers.

    Only the first row of the product of the layers' matrices is needed, so this is a chain of vector-matrix products
    from the last layer to the first, always in float32.

    Args:
        maps: attention probabilities per layer, ``[B, G, N, N]``; of the last layer the first row suffices.
        mean: average the ``G`` maps, add the identity and renormalise the rows before multiplying.

    Returns:
        ``[B, G, N-1]`` (``G = 1`` with `mean`), CLS's own column left out.
    """
    row = _prepared(maps[-1][:, :, :1].float(), mean)
    for matrix in reversed(maps[:-1]):
        row = torch.matmul(row, _prepared(matrix.float(), mean))
    return row[:, :, 0, 1:]


def _prepared(matrix: Tensor, mean: bool) -> Tensor:
    if not mean:
        return matrix
    matrix = matrix.mean(1, keepdim=True)
    matrix = matrix + torch.eye(matrix.shape[-2], matrix.shape[-1], device=matrix.device)
    return matrix / matrix.sum(-1, keepdim=True)


def select_regions(maps: Sequence[Tensor], tokens: Tensor, top_k: int, mean: bool) -> Regions:
    """Pick the `top_k` most important patches (in each head, unless `mean`) and gather their tokens beside CLS.

    Ties go to the lowest patch number. A patch that several heads pick is kept as often as it was picked.

    Args:
        maps: as for `rollout_cls_row`.
        tokens: ``[B, N, D]``, CLS first.
        top_k: patches to pick.
        mean: as for `rollout_cls_row`.

    Raises:
        NonFiniteError: the rollout holds NaN or infinity.
    """
    importance = rollout_cls_row(maps, mean=mean)
    if not torch.compiler.is_compiling() and not bool(torch.isfinite(importance).all()):
        raise NonFiniteError(
            "region selection met an attention that is not finite",
            why="the image or the weights hold NaN or infinity",
            fix="Check the checkpoint and the pixel values.",
        )
    # topk promises nothing about ties; a stable sort keeps the lower patch number first.
    values, index = torch.sort(importance, dim=-1, descending=True, stable=True)
    values, index = values[..., :top_k].flatten(1), index[..., :top_k].flatten(1)
    rows = (index + 1).unsqueeze(-1).expand(-1, -1, tokens.shape[-1])
    return Regions(torch.cat([tokens[:, :1], tokens.gather(1, rows)], dim=1), index, values)
