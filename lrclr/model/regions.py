"""Local region selection: attention rollout of a start row, top-k, gather."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lrclr.errors import NonFiniteError


class Regions(NamedTuple):
    """What region selection makes of an image.

    Attributes:
        tokens: ``[B, 1+R, D]``, the gathered rows, the global token first.
        index: ``[B, R]`` int64, patch numbers, row-major.
        importance: ``[B, R]`` float32, the rollout's weight of each patch.
    """

    tokens: Tensor
    index: Tensor  # type: ignore[assignment]  # a field may hide tuple's method
    importance: Tensor


SelectRegions = Callable[[Sequence[Tensor], Tensor, int, bool, int], Regions]


def rollout_row(maps: Sequence[Tensor], *, mean: bool, prefix: int = 1) -> Tensor:
    """Attention that the global token pays to each patch through all layers.

    Only one row of the product of the layers' matrices is needed, so this is a chain of vector-matrix products from the
    start row to the first layer, always in float32.

    Args:
        maps: attention probabilities per layer, ``[B, G, N, N]``, and last the start row: that of CLS in the last layer
            (the whole map of that layer will do), or the attention ``[B, G, 1, N]`` of what pools the patches.
        mean: average the ``G`` maps, add the identity and renormalise the rows before multiplying. To a start row that
            is not that of a token, the identity is not added.
        prefix: tokens before the patches: 1 for CLS, 0 without.

    Returns:
        ``[B, G, N-prefix]`` (``G = 1`` with `mean`), CLS's own column left out.
    """
    row = maps[-1][:, :, :1].float()
    if mean:
        row = _with_identity(row) if prefix else row.mean(1, keepdim=True)
    for matrix in reversed(maps[:-1]):
        row = torch.matmul(row, _with_identity(matrix.float()) if mean else matrix.float())
    return row[:, :, 0, prefix:]


def _with_identity(matrix: Tensor) -> Tensor:
    matrix = matrix.mean(1, keepdim=True)
    matrix = matrix + torch.eye(matrix.shape[-2], matrix.shape[-1], device=matrix.device)
    return matrix / matrix.sum(-1, keepdim=True)


def select_regions(maps: Sequence[Tensor], tokens: Tensor, top_k: int, mean: bool, prefix: int = 1) -> Regions:
    """Pick the `top_k` most important patches (in each head, unless `mean`) and gather their tokens after CLS.

    Ties go to the lowest patch number. A patch that several heads pick is kept as often as it was picked. Without a CLS
    token the caller puts the global token before the gathered ones.

    Args:
        maps: as for `rollout_row`.
        tokens: ``[B, N, D]``, CLS first if there is one.
        top_k: patches to pick.
        mean, prefix: as for `rollout_row`.

    Returns:
        Of `tokens` the `prefix` first ones and the picked ones.

    Raises:
        NonFiniteError: the rollout holds NaN or infinity.
    """
    importance = rollout_row(maps, mean=mean, prefix=prefix)
    if not torch.compiler.is_compiling() and not bool(torch.isfinite(importance).all()):
        raise NonFiniteError(
            "an attention in the region selection is not finite",
            why="the image or the weights hold NaN or infinity",
            fix="Check the checkpoint and the pixel values.",
        )
    # topk promises nothing about ties; a stable sort keeps the lower patch number first.
    values, index = torch.sort(importance, dim=-1, descending=True, stable=True)
    values, index = values[..., :top_k].flatten(1), index[..., :top_k].flatten(1)
    rows = (index + prefix).unsqueeze(-1).expand(-1, -1, tokens.shape[-1])
    return Regions(torch.cat([tokens[:, :prefix], tokens.gather(1, rows)], dim=1), index, values)
