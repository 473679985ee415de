"""More findings that make lung opaque: atelectasis, edema, a lung lesion, a patch of consolidation.

As in `findings`, each function returns a new phantom and the exact voxels that it changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from benchmarks.phantom.ct import LUNGS, Mask, Phantom, attenuation_from_hu
from benchmarks.phantom.shapes import blend, blurred, box_around, generous, organ, replaced, share, sigmoid, whole

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from benchmarks.phantom.findings import Side
    from benchmarks.phantom.shapes import Box

__all__ = ["atelectasis", "edema", "lesion", "patch"]

_SOLID_HU = 45.0
_BOTH = (*LUNGS["left"], *LUNGS["right"])


def atelectasis(phantom: Phantom, lobe: str, *, kept: float = 0.6, lift_mm: float = 15.0) -> tuple[Phantom, Mask]:
    """A lobe that has lost air: smaller, closer to the hilum and dense, with a higher diaphragm on its side.

    Args:
        phantom: the body.
        lobe: structure name.
        kept: remaining share of the lobe's height and width, 0 to 1. The neighbouring lobes fill the rest.
        lift_mm: how much higher the diaphragm is.
    """
    side: Side = next(side for side, lobes in _SIDES if lobe in lobes)
    box, lung = organ(phantom, LUNGS[side], margin_mm=6, sigma_mm=2)
    rows, depths, columns = lung.shape
    soft = share(phantom, (lobe,), box, 3)
    inner = box_around(soft > 0.5, 0)
    # A lower lobe collapses towards the spine and the base, an upper one towards the mediastinum and the apex.
    upright = float(inner[0].stop if "lower" in lobe else inner[0].start if "upper" in lobe else 0.55 * rows)
    centre = (upright, 0.6 * depths if "lower" in lobe else 0.5 * depths, columns if side == "right" else 0.0)
    down, back, across = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in lung.shape), indexing="ij", sparse=True)
    source = np.empty((3, *lung.shape), np.float32)
    for axis, (line, to, factor) in enumerate(zip((down, back, across), centre, (kept, 1.0, kept), strict=True)):
        source[axis] = to + (line - to) / factor
    dense = sigmoid((ndimage.map_coordinates(soft, source, order=1, mode="nearest") - 0.5) * 12)
    lifted = np.zeros_like(lung)
    steps = round(lift_mm / phantom.spacing)
    if steps:
        lifted[:-steps] = lung[steps:]
        # Only from below. Sideways and at the apex the lung does not move.
        lifted = np.where(down > 0.5 * rows, sigmoid((0.5 - lifted) * 12), 0)
    return blend(phantom, LUNGS[side], box, generous(lung) * np.maximum(0.85 * dense, lifted), _SOLID_HU)


def edema(
    phantom: Phantom, rng: np.random.Generator, *, amount: float = 0.3, reach_mm: float = 45.0
) -> tuple[Phantom, Mask]:
    """Water in both lungs around the hila, less further out, in fine patches, with wider vessels.

    Args:
        phantom: the body.
        rng: random generator of the patches.
        amount: share of the air that is replaced at the hila, 0 to 1.
        reach_mm: distance over which the share decreases.
    """
    box, lung = organ(phantom, _BOTH, margin_mm=6, sigma_mm=2)
    rows, depths, columns = lung.shape
    down, back, across = (
        (at - middle) * phantom.spacing
        for at, middle in zip(
            np.ogrid[:rows, :depths, :columns], (0.55 * rows, 0.5 * depths, 0.5 * columns), strict=True
        )
    )
    off_midline = np.abs(np.abs(across) - 45)
    far = (down / 1.3) ** 2 + (back / 1.4) ** 2 + off_midline**2
    noise = blurred(rng.standard_normal(lung.shape), 5 / phantom.spacing)
    noise /= max(float(noise.std()), 1e-9)
    shape = np.exp(-far / (2 * reach_mm**2))
    share_of = generous(lung) * np.clip(amount * shape * (1 + 0.5 * noise), 0, 0.9)
    mu = phantom.attenuation[box]
    water = attenuation_from_hu(np.array([15.0], np.float32))[0]
    new = mu + share_of * np.maximum(water - mu, 0)
    within = np.isin(phantom.labels[box], [phantom.structures[name] for name in _BOTH])
    return replaced(phantom, box, new), whole(phantom, box, within & (shape > 0.35))


def lesion(
    phantom: Phantom, lobe: str, rng: np.random.Generator, *, radius_mm: float = 12.0, hu: float = 60.0
) -> tuple[Phantom, Mask]:
    """A nodule or mass: a ball with an irregular border, entirely in the lung.

    Args:
        phantom: the body.
        lobe: lobe of its centre.
        rng: random generator of place and border.
        radius_mm: mean radius.
        hu: its density; above 100 it is calcified.
    """
    box, radius = _ball(phantom, lobe, rng, radius_mm, bumps=0.12, margin=1.3)
    side = next(side for side, lobes in _SIDES if lobe in lobes)
    lung = share(phantom, LUNGS[side], box, 2)
    return blend(phantom, LUNGS[side], box, generous(lung) * sigmoid((1 - radius) * radius_mm / 1.2), hu)


def patch(
    phantom: Phantom, lobe: str, rng: np.random.Generator, *, radius_mm: float = 32.0, fill: float = 0.7
) -> tuple[Phantom, Mask]:
    """Consolidation of a part of a lobe, with a blurred border, as in an early pneumonia.

    Args:
        phantom: the body.
        lobe: the lobe.
        rng: random generator of place, border and unevenness.
        radius_mm: mean radius.
        fill: mean share of the air that is replaced, 0 to 1.
    """
    box, radius = _ball(phantom, lobe, rng, radius_mm, bumps=0.3, margin=1.7)
    soft = share(phantom, (lobe,), box, 3)
    grain = blurred(rng.standard_normal(radius.shape), 7 / phantom.spacing)
    grain /= max(float(grain.std()), 1e-9)
    shape = generous(soft) * sigmoid((1 - radius) * radius_mm / 4)
    changed, _ = blend(phantom, (lobe,), box, shape * np.clip(fill + 0.15 * grain, 0, 1), _SOLID_HU)
    within = np.isin(phantom.labels[box], [phantom.structures[lobe]])
    return changed, whole(phantom, box, within & (shape > 0.5))


_SIDES: tuple[tuple[Side, tuple[str, ...]], ...] = (("left", LUNGS["left"]), ("right", LUNGS["right"]))


def _ball(
    phantom: Phantom, lobe: str, rng: np.random.Generator, radius_mm: float, *, bumps: float, margin: float
) -> tuple[Box, NDArray[np.floating]]:
    """A box in the lobe, and each voxel's distance from its centre in mean radii; the irregular border is at one."""
    cut, soft = organ(phantom, (lobe,), margin_mm=10, sigma_mm=3.5)
    # Where a ray passes much lung, so that heart and diaphragm do not hide it.
    side = next(side for side, lobes in _SIDES if lobe in lobes)
    depth = share(phantom, LUNGS[side], cut, 2).sum(axis=1, keepdims=True)
    places = np.argwhere((soft > 0.8) & (depth > 0.6 * depth.max()))
    if not len(places):
        raise ValueError(f"{lobe} is too thin for this finding")
    centre = places[rng.integers(len(places))] + [side.start for side in cut]
    reach = int(np.ceil(margin * radius_mm / phantom.spacing))
    shape = phantom.labels.shape
    low = [max(0, int(at) - reach) for at in centre]
    high = [min(size, int(at) + reach + 1) for at, size in zip(centre, shape, strict=True)]
    box = (slice(low[0], high[0]), slice(low[1], high[1]), slice(low[2], high[2]))
    squares = [(at - to) ** 2 for at, to in zip(np.ogrid[box], centre, strict=True)]
    distance = np.sqrt((squares[0] + squares[1] + squares[2]).astype(np.float32)) * (phantom.spacing / radius_mm)
    noise = blurred(rng.standard_normal(distance.shape), 0.4 * radius_mm / phantom.spacing)
    noise /= max(float(noise.std()), 1e-9)
    return box, distance * (1 + bumps * np.clip(noise, -2, 2))
