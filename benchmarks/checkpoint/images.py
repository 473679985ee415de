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
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = [
    "CELLS",
    "SIDE",
    "SIZES",
    "Split",
    "as_pixel_values",
    "augmented",
    "read_reports",
    "read_split",
    "rows_of_split",
    "varied",
]

SIZES = (112, 224)
"""Pixels along each edge of an image: of the first stages, and of the network in the package."""
SIDE = 14
"""Patches along each edge of an image."""
CELLS = 2
"""Cells of a patch along each edge, for which the share that a finding covers is computed."""

_SPEC = PreprocessSpec.clip(SIZES[-1])


@dataclass(frozen=True)
class Split:
    """One split of the data set, reduced to the network's input size.

    Attributes:
        images: uint8 ``[N, S, S]``.
        masks: uint8 ``[N, S, S]``; bit k is finding k.
        labels: bool ``[N, 7]``.
        reports: N texts.
    """

    images: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    labels: NDArray[np.bool_]
    reports: tuple[str, ...]


def read_split(dataset: Path, split: str, size: int = SIZES[-1]) -> Split:
    """Read one split of a phantom data set.

    Args:
        dataset: ``manifest.csv`` of the data set.
        split: name of the split.
        size: pixels along each edge, to which images are reduced as the network's preprocessing reduces them.
    """
    rows = rows_of_split(dataset, split)
    images, masks = (
        np.stack([_reduced(dataset.parent / row[column], size, method) for row in rows])
        for column, method in (("image", Image.Resampling.BICUBIC), ("mask", Image.Resampling.NEAREST))
    )
    labels = np.array([[row[name] == "1" for name in FINDINGS] for row in rows])
    return Split(images, masks, labels, tuple(row["report"] for row in rows))


def read_reports(dataset: Path, split: str) -> tuple[str, ...]:
    """Read the reports of one split of a phantom data set."""
    return tuple(row["report"] for row in rows_of_split(dataset, split))


def rows_of_split(dataset: Path, split: str) -> list[dict[str, str]]:
    """Rows of one split of a phantom data set, by column."""
    with dataset.open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if row["split"] == split]


def _reduced(path: Path, size: int, method: Image.Resampling) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image.resize((size, size), method))


def as_pixel_values(grey: Tensor) -> Tensor:
    """The image encoder's input ``[B, 3, S, S]`` from grey levels ``[B, 1, S, S]`` in [0, 1]."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (_SPEC.mean, _SPEC.std))
    return (grey.expand(-1, 3, -1, -1) - mean) / std


def augmented(
    images: NDArray[np.uint8], masks: NDArray[np.uint8] | None, rng: torch.Generator
) -> tuple[Tensor, Tensor | None]:
    """Images as `varied` changes them, as the network's input.

    Returns:
        Pixel values ``[B, 3, S, S]``, and the share of each cell that each finding covers, ``[B, 7, 28, 28]``.
    """
    grey, covered = varied(images, masks, rng)
    return as_pixel_values(grey), covered


def varied(
    images: NDArray[np.uint8], masks: NDArray[np.uint8] | None, rng: torch.Generator
) -> tuple[Tensor, Tensor | None]:
    """Change images as other machines and other operators would: geometry, exposure, sharpness, noise, field, letters.

    Each image draws its strength, from none to strong, so that some images stay nearly as they are. Images are not
    mirrored, since reports name sides.

    Returns:
        Grey levels ``[B, 1, S, S]`` in [0, 1], and the share of each cell that each finding covers,
        ``[B, 7, 28, 28]``.
    """
    count, size = images.shape[:2]
    strength = torch.rand(count, generator=rng)

    def draw(low: float, high: float) -> Tensor:
        return strength * torch.empty(count).uniform_(low, high, generator=rng)

    def some(share: float) -> Tensor:
        return torch.rand(count, generator=rng) < share

    transform = _transform(draw)
    grey = _moved(torch.from_numpy(images).float()[:, None] / 255, transform)
    coarse = nn.functional.interpolate(nn.functional.avg_pool2d(grey, size // 8), size, mode="bicubic")
    grey = grey + _spread(draw(-0.4, 0.6)) * (grey - coarse)
    grey = grey.clamp(1e-4, 1) ** _spread(draw(-0.7, 0.6).exp())
    grey = (grey - 0.5) * _spread(draw(-0.6, 0.4).exp()) + 0.5 + _spread(draw(-0.16, 0.16))
    haze = nn.functional.interpolate(torch.randn(count, 1, 4, 4, generator=rng), size, mode="bicubic")
    grey = grey + haze * _spread(draw(0, 0.12) * some(0.5))
    grey = _blurred(grey, (draw(0, size / 70) * some(0.6)).clamp_min(0.05))
    # Dense parts of a radiograph, which are bright, get few photons.
    noise = torch.randn(grey.shape, generator=rng) * (0.3 + grey.clamp(0, 1))
    noise = torch.where(_spread(some(0.4)), 2 * nn.functional.avg_pool2d(noise, 3, 1, 1), noise)
    grey = grey + noise * _spread(draw(0, 0.0085 * size**0.5) * some(0.7))
    grey = grey.clamp(0, 1)
    _add_bars_and_letters(grey, rng)
    if masks is None:
        return grey, None
    halved = masks[:, ::2, ::2]
    planes = torch.from_numpy(np.stack([halved >> bit & 1 for bit in range(len(FINDINGS))], 1).astype(np.float32))
    return grey, nn.functional.avg_pool2d(_moved(planes, transform), size // (SIDE * CELLS) // 2)


def _transform(draw: Callable[[float, float], Tensor]) -> Tensor:
    """Random affine transforms ``[B, 2, 3]``: rotated, scaled, sheared and shifted."""
    angle, scale = draw(-14, 14) * (math.pi / 180), draw(-0.16, 0.26).exp()
    wide, shear = scale * draw(-0.1, 0.1).exp(), draw(-0.1, 0.1)
    right, down = draw(-0.13, 0.13), draw(-0.13, 0.13)
    across = (angle.cos() * wide, (shear - angle.sin()) * scale, right)
    return torch.stack([torch.stack(row, 1) for row in (across, (angle.sin() * wide, angle.cos() * scale, down))], 1)


def _blurred(grey: Tensor, deviations: Tensor) -> Tensor:
    """Each image convolved with a Gaussian of its own standard deviation, in pixels."""
    reach = grey.shape[-1] // 28
    at = torch.arange(-reach, reach + 1).float()
    kernels = torch.softmax(-(at**2) / (2 * deviations[:, None] ** 2), 1)[:, None, None]
    together = nn.functional.pad(grey, (reach,) * 4, mode="replicate").transpose(0, 1)
    for weight in (kernels, kernels.transpose(2, 3)):
        together = nn.functional.conv2d(together, weight, groups=len(grey))
    return together.transpose(0, 1)


def _add_bars_and_letters(grey: Tensor, rng: torch.Generator) -> None:
    """Black bars along edges, as of a field that is not square, and a bright mark, as of a letter, near an edge."""
    count, edge = len(grey), grey.shape[-1]
    bars = (torch.rand(count, 4, generator=rng) * 0.13 * edge * (torch.rand(count, 4, generator=rng) < 0.2)).int()
    marks = torch.rand(count, 5, generator=rng).tolist()
    patterns = (torch.rand(count, 1, 5, 3, generator=rng) < 0.6).float()
    for picture, (top, bottom, left, right), (drawn, size, bright, side, along), pattern in zip(
        grey, bars.tolist(), marks, patterns, strict=True
    ):
        picture[:, :top] = picture[:, edge - bottom :] = 0
        picture[:, :, :left] = picture[:, :, edge - right :] = 0
        if drawn < 0.3:
            times = (1 + round(size)) * edge // SIZES[0]
            letter = pattern.repeat_interleave(times, 1).repeat_interleave(times, 2)
            height, width = letter.shape[1:]
            row = int(along * (edge - height))
            column = int((0.2 * side if side < 0.5 else 1 - 0.2 * (1 - side)) * (edge - width))
            place = picture[:, row : row + height, column : column + width]
            place.copy_(torch.maximum(place, letter * (0.7 + 0.3 * bright)))


def _spread(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def _moved(pictures: Tensor, transform: Tensor) -> Tensor:
    grid = nn.functional.affine_grid(transform, list(pictures.shape), align_corners=False)
    return nn.functional.grid_sample(pictures, grid, align_corners=False)
