"""Adds findings to a phantom. Each function returns a new phantom and the exact voxels that it changed.

The masks are the ground truth of the place. They are inside the lungs, since each of these findings replaces lung.
Sizes are in mm, densities in Hounsfield units. The shapes are plausible, not fitted to patients.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy import ndimage

from benchmarks.phantom.ct import LUNGS, Mask, Phantom, attenuation_from_hu
from benchmarks.phantom.shapes import (
    blend,
    blurred,
    box_around,
    generous,
    numbers,
    organ,
    replaced,
    share,
    sigmoid,
    whole,
)

__all__ = ["Side", "cardiomegaly", "consolidation", "effusion", "pneumothorax"]

Side = Literal["left", "right"]

_FLUID_HU = 15.0  # a transudate: a little denser than water
_SOLID_HU = 40.0  # muscle, unenhanced blood, airless lung
_LUNG_HU = -830.0  # the mean of this CT's lungs
_PLEURA = 0.7  # share of soft tissue in the line of the detached pleura


def effusion(
    phantom: Phantom, side: Side, *, level: float = 0.42, rise_mm: float = 70.0, reach_mm: float = 16.0
) -> tuple[Phantom, Mask]:
    """Free fluid in an upright patient, with a meniscus that rises along the chest wall.

    Args:
        phantom: the body.
        side: the patient's side.
        level: height of the fluid in the middle of the lung, as a fraction of the lung's height.
        rise_mm: how much higher it is at the wall.
        reach_mm: distance from the wall over which the rise falls by a factor e.
    """
    box, soft = organ(phantom, LUNGS[side], margin_mm=6, sigma_mm=2)
    rows = soft.shape[0]
    # Only the chest wall raises the fluid, so the space between the lung and the midline counts as open.
    open_space = _up_to_midline(soft > 0.5, side)
    wall = ndimage.distance_transform_edt(open_space, sampling=phantom.spacing)
    above_base = (rows - np.arange(rows)[:, None, None]) * phantom.spacing
    depth = level * rows * phantom.spacing + rise_mm * np.exp(-wall / reach_mm) - above_base
    return blend(phantom, LUNGS[side], box, generous(soft) * sigmoid(depth / 1.5), _FLUID_HU)


def consolidation(
    phantom: Phantom, lobe: str, rng: np.random.Generator, *, fill: float = 0.75, patch_mm: float = 12.0
) -> tuple[Phantom, Mask]:
    """Airless lung in a whole lobe, uneven as in pneumonia, which ends at the fissure.

    Args:
        phantom: the body.
        lobe: structure name, e.g. ``"lung_upper_lobe_right"``.
        rng: random generator of the unevenness.
        fill: mean share of the air that is replaced, 0 to 1.
        patch_mm: size of the uneven patches in mm.
    """
    box, soft = organ(phantom, (lobe,), margin_mm=10, sigma_mm=3.5)
    side = next(side for side, lobes in LUNGS.items() if lobe in lobes)
    lung = share(phantom, LUNGS[side], box, 3.5)
    # Relative to the whole lung, so that the border is at the fissure and not at the chest wall.
    part = soft / np.maximum(lung, 1e-3)
    noise = blurred(rng.standard_normal(soft.shape), patch_mm / phantom.spacing)
    noise /= max(float(noise.std()), 1e-9)
    amount = sigmoid((part - 0.5) * 10) * generous(lung) * np.clip(fill + 0.15 * noise, 0, 1)
    phantom, _ = blend(phantom, (lobe,), box, amount, _SOLID_HU)
    return phantom, phantom.region((lobe,))


def cardiomegaly(phantom: Phantom, *, scale: float = 1.35) -> tuple[Phantom, Mask]:
    """A heart that is wider, most in its lower part, and a little longer, to the left and onto the diaphragm.

    Args:
        phantom: the body.
        scale: factor of its greatest width, around a point near its right border. The depth grows by half as much.
    """
    lungs = (*LUNGS["left"], *LUNGS["right"])
    box, soft = organ(phantom, ("heart",), margin_mm=50, sigma_mm=5)
    inner = box_around(soft > 0.5, 0)
    top, front, right = (float(cut.start) for cut in inner)
    height, depth, width = (float(cut.stop - cut.start) for cut in inner)
    down, back, across = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in soft.shape), indexing="ij", sparse=True)
    # From the great vessels, which do not change, to the widest part of the ventricles.
    low = np.clip((down - top) / (0.6 * height), 0, 1)
    wider = 1 + (scale - 1) * low * low * (3 - 2 * low)
    source = np.empty((3, *soft.shape), np.float32)
    source[0] = top + (down - top) / 1.08
    source[1] = front + depth / 2 + (back - front - depth / 2) / ((1 + wider) / 2)
    source[2] = right + 0.3 * width + (across - right - 0.3 * width) / wider
    grown = ndimage.map_coordinates(soft, source, order=1, mode="constant")
    air = share(phantom, lungs, box, 2)
    return blend(phantom, lungs, box, generous(air) * sigmoid((grown - 0.5) * 14), _SOLID_HU)


def pneumothorax(phantom: Phantom, side: Side, *, collapse: float = 0.25) -> tuple[Phantom, Mask]:
    """Air between lung and chest wall of an upright patient. The lung shrinks towards its hilum, most at the apex.

    Args:
        phantom: the body.
        side: the patient's side.
        collapse: share of its width that the lung loses at the apex, 0 to 1. At the base it loses nothing.
    """
    box, soft = organ(phantom, LUNGS[side], margin_mm=6, sigma_mm=1.5)
    mu = phantom.attenuation[box]
    rows, depths, columns = soft.shape
    # At mid height on the side of the midline, where bronchi and vessels enter the lung.
    hilum = (0.5 * rows, 0.5 * depths, columns - 1.0 if side == "right" else 0.0)
    down, back, across = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in soft.shape), indexing="ij", sparse=True)
    shrink = 1 - collapse * np.clip(1 - down / (0.6 * rows), 0, 1) ** 0.7
    source = np.empty((3, *soft.shape), np.float32)
    for axis, (line, centre) in enumerate(zip((down, back, across), hilum, strict=True)):
        source[axis] = centre + (line - centre) / shrink
    kept = sigmoid((ndimage.map_coordinates(soft, source, order=1, mode="constant") - 0.5) * 12)
    moved = ndimage.map_coordinates(mu, source, order=1, mode="nearest")

    thin, solid = attenuation_from_hu(np.array([_LUNG_HU, _SOLID_HU], np.float32))
    # Lung becomes air. The wall stays, with the partly filled voxels of its surface.
    inner = np.clip((soft - 0.6) / 0.35, 0, 1)
    hollow = (1 - inner) * np.where(mu < solid, solid * np.clip((mu - thin) / (solid - thin), 0, 1), mu)
    line = 4 * kept * (1 - kept) * inner * (_PLEURA * solid)
    changed = np.maximum(kept * np.minimum(moved, solid) + (1 - kept) * hollow, line)
    moves = generous(soft) * np.clip((1 - shrink) / 0.02, 0, 1)
    new = mu + moves * (changed - mu)
    within = np.isin(phantom.labels[box], numbers(phantom, LUNGS[side]))
    return replaced(phantom, box, new), whole(phantom, box, within & (moves * (1 - kept) > 0.5))


def _up_to_midline(lung: Mask, side: Side) -> Mask:
    """The lung, and in each row everything from its outer border to the midline."""
    if side == "right":
        return np.asarray(np.logical_or.accumulate(lung, axis=2))
    return np.asarray(np.logical_or.accumulate(lung[:, :, ::-1], axis=2)[:, :, ::-1])
