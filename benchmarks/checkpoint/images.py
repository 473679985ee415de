"""The phantom's images in memory, and their augmentation, so that a network generalises to other domains."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.phantom.cases import FINDINGS
from lrclr.preprocessing import PreprocessSpec

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["CELLS", "PATCH", "SIZE", "Split", "as_pixel_values", "augmented", "read_reports", "read_split"]

SIZE, PATCH = 112, 8
CELLS = 2
"""Cells of a patch along each edge, for which the share that a finding covers is computed."""

_CELL = PATCH // CELLS
_SPEC = PreprocessSpec.clip(SIZE)


@dataclass(frozen=True)
class Split:
    """One split of the data set, reduced to the network's input size.

    Attributes:
        images: uint8 ``[N, 112, 112]``.
        masks: uint8 ``[N, 112, 112]``; bit k is finding k.
        labels: bool ``[N, 7]``.
        reports: N texts.
    """

    images: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    labels: NDArray[np.bool_]
    reports: tuple[str, ...]


def read_split(dataset: Path, split: str) -> Split:
    """Read one split of a phantom data set. Images are reduced as the network's preprocessing reduces them."""
    rows = _rows(dataset, split)
    images, masks = (
        np.stack([_reduced(dataset.parent / row[column], method) for row in rows])
        for column, method in (("image", Image.Resampling.BICUBIC), ("mask", Image.Resampling.NEAREST))
    )
    labels = np.array([[row[name] == "1" for name in FINDINGS] for row in rows])
    return Split(images, masks, labels, tuple(row["report"] for row in rows))


def read_reports(dataset: Path, split: str) -> tuple[str, ...]:
    """Read the reports of one split of a phantom data set."""
    return tuple(row["report"] for row in _rows(dataset, split))


def _rows(dataset: Path, split: str) -> list[dict[str, str]]:
    with dataset.open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if row["split"] == split]


def _reduced(path: Path, method: Image.Resampling) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image.resize((SIZE, SIZE), method))


def as_pixel_values(grey: Tensor) -> Tensor:
    """The image encoder's input ``[B, 3, 112, 112]`` from grey levels ``[B, 1, 112, 112]`` in [0, 1]."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (_SPEC.mean, _SPEC.std))
    return (grey.expand(-1, 3, -1, -1) - mean) / std


def augmented(
    images: NDArray[np.uint8], masks: NDArray[np.uint8] | None, rng: torch.Generator
) -> tuple[Tensor, Tensor | None]:
    """Rotate, scale, shift, blur and crop images, change their exposure and add noise.

    Images are not mirrored, since reports name sides.

    Returns:
        Pixel values ``[B, 3, 112, 112]``, and the share of each cell that each finding covers, ``[B, 7, 28, 28]``.
    """
    count = len(images)

    def draw(low: float, high: float) -> Tensor:
        return torch.empty(count).uniform_(low, high, generator=rng)

    def spread(values: Tensor) -> Tensor:
        return values[:, None, None, None]

    angle, scale = draw(-8, 8) * (math.pi / 180), draw(0.9, 1.2)
    wide = scale * draw(0.95, 1.05)
    right, down = draw(-0.08, 0.08), draw(-0.08, 0.08)
    rows = [(angle.cos() * wide, -angle.sin() * scale, right), (angle.sin() * wide, angle.cos() * scale, down)]
    transform = torch.stack([torch.stack(row, 1) for row in rows], 1)
    grey = _moved(torch.from_numpy(images).float()[:, None] / 255, transform)
    grey = grey.clamp(1e-4, 1) ** spread(draw(-0.45, 0.35).exp())
    grey = (grey - 0.5) * spread(draw(0.7, 1.25)) + 0.5 + spread(draw(-0.1, 0.1))
    blurred = draw(0, 1) < 0.3
    grey[blurred] = nn.functional.avg_pool2d(nn.functional.pad(grey[blurred], (1,) * 4, mode="replicate"), 3, 1)
    grey = grey + torch.randn(grey.shape, generator=rng) * spread(draw(0, 0.042) * (draw(0, 1) < 0.6))
    bars = (torch.rand(count, 4, generator=rng) * 0.09 * SIZE * (torch.rand(count, 4, generator=rng) < 0.25)).int()
    for picture, (top, bottom, left, right_bar) in zip(grey, bars.tolist(), strict=True):
        picture[:, :top] = picture[:, SIZE - bottom :] = 0
        picture[:, :, :left] = picture[:, :, SIZE - right_bar :] = 0
    pixel_values = as_pixel_values(grey.clamp(0, 1))
    if masks is None:
        return pixel_values, None
    halved = masks[:, ::2, ::2]
    planes = torch.from_numpy(np.stack([halved >> bit & 1 for bit in range(len(FINDINGS))], 1).astype(np.float32))
    return pixel_values, nn.functional.avg_pool2d(_moved(planes, transform), _CELL // 2)


def _moved(pictures: Tensor, transform: Tensor) -> Tensor:
    grid = nn.functional.affine_grid(transform, list(pictures.shape), align_corners=False)
    return nn.functional.grid_sample(pictures, grid, align_corners=False)
