"""Tools for the findings: organs as soft shapes, and tissue blended into a phantom."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import ndimage

from benchmarks.phantom.ct import Mask, Phantom, Volume, attenuation_from_hu

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = [
    "Box",
    "Organ",
    "blend",
    "blurred",
    "box_around",
    "generous",
    "numbers",
    "organ",
    "replaced",
    "share",
    "sigmoid",
    "whole",
]

Box = tuple[slice, slice, slice]


class _Same:
    """Cache key of an array: equal only for the same array object, which it keeps alive."""

    def __init__(self, array: NDArray[np.uint8]) -> None:
        self.array = array

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.array is self.array

    def __hash__(self) -> int:
        return id(self.array)


class Organ(NamedTuple):
    """A box around an organ, and the share of the organ in each voxel, 0 to 1; read only, since it is cached."""

    box: Box
    soft: Volume


def numbers(phantom: Phantom, names: Sequence[str]) -> list[int]:
    return [phantom.structures[name] for name in names]


def organ(phantom: Phantom, names: Sequence[str], margin_mm: float, sigma_mm: float) -> Organ:
    """The union of the named organs, without the steps of the CT's slices; cached."""
    margin, sigma = round(margin_mm / phantom.spacing), sigma_mm / phantom.spacing
    return _organ(_Same(phantom.labels), tuple(numbers(phantom, names)), margin, sigma)


@lru_cache(maxsize=32)
def _organ(labels: _Same, wanted: tuple[int, ...], margin: int, sigma: float) -> Organ:
    mask = np.asarray(np.isin(labels.array, wanted))
    box = box_around(mask, margin)
    soft = blurred(mask[box], sigma)
    soft.flags.writeable = False
    return Organ(box, soft)


def share(phantom: Phantom, names: Sequence[str], box: Box, sigma_mm: float) -> Volume:
    """The share of the named organs in each voxel of a box, 0 to 1; cached."""
    corners = tuple((cut.start, cut.stop) for cut in box)
    return _share(_Same(phantom.labels), tuple(numbers(phantom, names)), corners, sigma_mm / phantom.spacing)


@lru_cache(maxsize=32)
def _share(labels: _Same, wanted: tuple[int, ...], corners: tuple[tuple[int, int], ...], sigma: float) -> Volume:
    box = tuple(slice(*corner) for corner in corners)
    soft = blurred(np.isin(labels.array[box], wanted), sigma)
    soft.flags.writeable = False
    return soft


def blurred(values: NDArray[np.generic], sigma: float) -> Volume:
    return np.asarray(ndimage.gaussian_filter(values.astype(np.float32), sigma, truncate=3.0), np.float32)


def generous(soft: Volume) -> Volume:
    """A shape of 1 in the organ and a little beyond it, so that no thin layer of lung remains along a wall."""
    return np.asarray(np.clip((soft - 0.02) / 0.1, 0, 1), np.float32)


def blend(
    phantom: Phantom, names: Sequence[str], box: Box, amount: NDArray[np.floating], hu: float
) -> tuple[Phantom, Mask]:
    """Blend denser tissue in by ``amount``, 0 to 1; the mask is where it is above a half in the named organs."""
    mu = phantom.attenuation[box]
    tissue = attenuation_from_hu(np.array([hu], np.float32))[0]
    new = mu + amount * np.maximum(tissue - mu, 0)
    within = np.isin(phantom.labels[box], numbers(phantom, names))
    return replaced(phantom, box, new), whole(phantom, box, within & (amount > 0.5))


def replaced(phantom: Phantom, box: Box, part: NDArray[np.floating]) -> Phantom:
    attenuation = phantom.attenuation.copy()
    attenuation[box] = part
    return replace(phantom, attenuation=attenuation)


def whole(phantom: Phantom, box: Box, part: Mask) -> Mask:
    mask = np.zeros(phantom.attenuation.shape, bool)
    mask[box] = part
    return mask


def box_around(mask: Mask, margin: int) -> Box:
    """The smallest box around a mask, widened by `margin` voxels."""
    if not mask.any():
        raise ValueError("the phantom lacks the organs that this finding needs")
    cuts = []
    for axis in range(3):
        hit = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        cuts.append(slice(max(0, int(hit[0]) - margin), min(mask.shape[axis], int(hit[-1]) + 1 + margin)))
    return cuts[0], cuts[1], cuts[2]


def sigmoid(x: NDArray[np.floating]) -> NDArray[np.floating]:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -30, 30))), np.float32)
