"""Computes a radiograph from attenuation: rays through the volume (Beer and Lambert), then a detector.

All functions are pure. Noise is drawn from the given generator as standard normal values, scaled by the expected
counts. A difference in the last bit between machines then changes a pixel by its last bit. With a Poisson sampler,
whose rejections depend on the counts, it could shift the whole sequence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["Detector", "View", "expose", "footprint", "line_integral", "rotation"]

Image = NDArray[np.float32]
Volume = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class View:
    """Position of the source and the picture relative to the volume.

    Lengths are measured in the plane through the pivot. A structure in that plane has the same size in mm at any
    distance of the source; a structure nearer to the source is magnified.

    Attributes:
        size: (rows, columns) of the picture in pixels.
        pixel_mm: distance between pixels.
        pivot: the point in the middle of the picture, around which the body rotates, as fractions of the volume along
            (head to foot, front to back, right to left).
        pitch_deg, yaw_deg, roll_deg: rotation of the body about its (right to left, head to foot, front to back) axis.
        zoom: magnification of the whole picture.
        distance: distance from the source to the pivot in mm; usually 1800 upright, 1000 at the bedside.
        direction: "AP" has the source in front of the patient, "PA" behind. The orientation of the picture is the same.
    """

    size: tuple[int, int]
    pixel_mm: float
    pivot: tuple[float, float, float] = (0.5, 0.5, 0.5)
    pitch_deg: float = 0.0
    yaw_deg: float = 0.0
    roll_deg: float = 0.0
    zoom: float = 1.0
    distance: float = 1800.0
    direction: Literal["AP", "PA"] = "AP"

    def __post_init__(self) -> None:
        if min(self.size) < 1 or min(self.pixel_mm, self.zoom, self.distance) <= 0:
            raise ValueError("size, pixel_mm, zoom and distance must be positive")


@dataclass(frozen=True, slots=True)
class Detector:
    """Response of the detector: from an exposure to grey levels.

    Attributes:
        photons: photons in a pixel of the unattenuated beam; fewer give more noise.
        scatter: share of the signal that is scattered radiation, 0 to 1 (after the grid; 0.2 to 0.5 in a chest).
        scatter_mm: standard deviation of the scattered radiation's spread, in mm.
        blur_mm: standard deviation of the blur of focal spot and detector, in mm.
        balance: share of the coarse contrast that is kept, 0 to 1. Below one, dense and clear areas become more alike,
            as after the processing of digital radiographs; the fine contrast stays.
        balance_mm: standard deviation, in mm, beyond which contrast counts as coarse.
        edges: share of the finest detail (below 1 mm) that is added.
        window: percentiles of the processed picture that become black and white.
        gamma: exponent of the tone curve; above one it darkens middle levels.
    """

    photons: float = 1_000_000.0
    scatter: float = 0.1
    scatter_mm: float = 25.0
    blur_mm: float = 0.2
    balance: float = 0.5
    balance_mm: float = 15.0
    edges: float = 0.5
    window: tuple[float, float] = (1.0, 99.8)
    gamma: float = 1.3

    def __post_init__(self) -> None:
        if self.photons <= 0 or not 0 <= self.scatter < 1 or self.gamma <= 0:
            raise ValueError("photons and gamma must be positive, scatter at least 0 and below 1")
        if not 0 <= self.window[0] < self.window[1] <= 100:
            raise ValueError("window must be two rising percentiles")


def line_integral(attenuation: Volume, spacing: float, view: View) -> Image:
    """The exponent of Beer and Lambert's law for each pixel: attenuation integrated along its ray, without unit.

    Args:
        attenuation: 1/mm, axes (head to foot, front to back, right to left).
        spacing: edge of a voxel in mm.
        view: the geometry.

    Returns:
        float32 of ``view.size``. Row 0 is the head, column 0 the patient's right.
    """
    rows, columns = view.size
    pixel = view.pixel_mm / view.zoom
    vertical = ((np.arange(rows) - (rows - 1) / 2) * pixel)[:, None]
    lateral = ((np.arange(columns) - (columns - 1) / 2) * pixel)[None, :]
    turn = rotation(view)
    shape = np.array(attenuation.shape)
    pivot = np.array(view.pivot) * shape - 0.5
    # One sample for each voxel of depth, over the whole extent of the rotated volume.
    reach = float(np.abs(turn[1]) @ np.maximum(pivot + 1, shape - pivot))
    away = 1.0 if view.direction == "AP" else -1.0
    total = np.zeros(view.size, np.float32)
    for step in np.arange(-np.ceil(reach), np.ceil(reach) + 1):
        depth = step * spacing
        widening = 1 + away * depth / view.distance
        points = [
            ((turn[0, axis] * vertical + turn[2, axis] * lateral) * widening + turn[1, axis] * depth) / spacing
            + pivot[axis]
            for axis in range(3)
        ]
        lines = np.stack(points).astype(np.float32)
        if any(_misses(line, count) for line, count in zip(lines, attenuation.shape, strict=True)):
            continue
        total += ndimage.map_coordinates(attenuation, lines, order=1, mode="constant", cval=0.0, output=np.float32)
    slant = np.sqrt(1 + (vertical**2 + lateral**2) / view.distance**2)
    return (total * (spacing * slant)).astype(np.float32)


def footprint(mask: Mask, spacing: float, view: View, least_mm: float = 2.0) -> Mask:
    """Pixels whose ray passes through at least ``least_mm`` mm of a mask of the volume: the place of a finding."""
    return np.asarray(line_integral(mask.astype(np.float32), spacing, view) >= least_mm)


def expose(integral: Image, pixel_mm: float, detector: Detector, rng: np.random.Generator) -> Image:
    """Grey levels of a line integral, float32, from 0 (black, air) to 1 (white, bone).

    Args:
        integral: result of `line_integral`.
        pixel_mm: distance between pixels.
        detector: its response.
        rng: random generator of the quantum noise.
    """
    primary = np.exp(-integral.astype(np.float64))
    signal = (1 - detector.scatter) * primary + detector.scatter * _smooth(primary, detector.scatter_mm / pixel_mm)
    signal = _smooth(signal, detector.blur_mm / pixel_mm)
    counts = signal * detector.photons
    counts = counts + np.sqrt(counts) * rng.standard_normal(counts.shape)
    film = -np.log(np.maximum(counts, 1.0) / detector.photons)

    coarse = _smooth(film, detector.balance_mm / pixel_mm)
    film = film - (1 - detector.balance) * coarse
    film = film + detector.edges * (film - _smooth(film, 0.7 / pixel_mm))
    low, high = np.percentile(film, detector.window)
    scaled = np.clip((film - low) / max(high - low, 1e-9), 0, 1)
    return np.asarray(scaled**detector.gamma, np.float32)


def _smooth(image: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    return np.asarray(ndimage.gaussian_filter(image, sigma, mode="nearest", truncate=3.0))


def _misses(line: NDArray[np.float32], count: int) -> bool:
    return bool(line.max() <= -1 or line.min() >= count)


def rotation(view: View) -> NDArray[np.float64]:
    """Matrix whose rows are the picture's downward, inward and rightward directions in the volume."""
    a, b, c = np.deg2rad([view.pitch_deg, view.yaw_deg, view.roll_deg])
    nod = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    turn = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    lean = np.array([[np.cos(c), 0, -np.sin(c)], [0, 1, 0], [np.sin(c), 0, np.cos(c)]])
    return np.asarray(nod @ turn @ lean)
