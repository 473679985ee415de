"""Line integrals of a volume by shear-warp factorisation (Lacroute and Levoy, 1994).

Seen from the source, each layer of voxels across the view is a magnified and shifted picture of the middle layer. The
layers are added on the grid of the middle layer, with two one-dimensional interpolations each, and the sum is warped
to the camera once. Up to interpolation the result is that of `render.line_integral`, which takes about twenty times as
long. The source must be well outside the body.

BLAS is not used, so the result does not depend on the number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from benchmarks.phantom.render import View, rotation

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from benchmarks.phantom.ct import Mask, Volume
    from benchmarks.phantom.render import Image

__all__ = ["Camera", "camera_of", "project", "shadow"]

Triple = tuple[float, float, float]
_LAYER_MM = 5.0  # layers are joined up to this; at a tilt of 10 degrees a voxel moves by less than 0.5 mm


@dataclass(frozen=True, slots=True)
class Camera:
    """A view of one volume.

    Attributes:
        spacing: edges of a voxel in mm along the volume's axes; unequal if the body is stretched.
        corner: centre of the first voxel in mm from the pivot.
        source: the source of the rays, in mm from the pivot.
        down, across: where each pixel's ray meets the pivot's layer, in mm from the pivot; ``[rows, columns]``.
        slant: length of each ray within a layer, divided by the layer's thickness.
    """

    spacing: Triple
    corner: Triple
    source: Triple
    down: Image
    across: Image
    slant: Image


def camera_of(
    view: View,
    shape: tuple[int, ...],
    spacing: float,
    *,
    stretch: Triple = (1.0, 1.0, 1.0),
    bend: NDArray[np.float32] | None = None,
) -> Camera:
    """Compute the camera of a view.

    Args:
        view: the geometry.
        shape: shape of the volume.
        spacing: edge of its voxels in mm.
        stretch: factors of the body's height, depth and width.
        bend: displacement of each pixel in mm, ``[2, rows, columns]``, downward and rightward, for another body shape.
    """
    rows, columns = view.size
    pixel = view.pixel_mm / view.zoom
    vertical = np.broadcast_to(((np.arange(rows) - (rows - 1) / 2) * pixel)[:, None], view.size)
    lateral = np.broadcast_to(((np.arange(columns) - (columns - 1) / 2) * pixel)[None, :], view.size)
    if bend is not None:
        vertical, lateral = vertical + bend[0], lateral + bend[1]
    turn = rotation(view)
    source = turn[1] * (-view.distance if view.direction == "AP" else view.distance)
    ray = [turn[0, axis] * vertical + turn[2, axis] * lateral - source[axis] for axis in range(3)]
    along = -source[1] / ray[1]
    edges = [spacing * factor for factor in stretch]
    corner = [(0.5 - at * count) * edge for at, count, edge in zip(view.pivot, shape, edges, strict=True)]
    slant = np.sqrt(ray[0] ** 2 + ray[1] ** 2 + ray[2] ** 2) / np.abs(ray[1])
    return Camera(
        spacing=(edges[0], edges[1], edges[2]),
        corner=(corner[0], corner[1], corner[2]),
        source=(float(source[0]), float(source[1]), float(source[2])),
        down=(source[0] + along * ray[0]).astype(np.float32),
        across=(source[2] + along * ray[2]).astype(np.float32),
        slant=slant.astype(np.float32),
    )


def project(volume: Volume, camera: Camera, *, first: tuple[int, int, int] = (0, 0, 0), order: int = 3) -> Image:
    """Integrate a volume along the rays: values times mm, float32, ``[rows, columns]``.

    Args:
        volume: the values; axes (head to foot, front to back, right to left).
        camera: camera of this volume, or of a larger one that contains it.
        first: position of this volume's first voxel in the larger one.
        order: order of the spline that maps the sum to the pixels; with 1 the result has no negative values.
    """
    edges = camera.spacing
    start = [corner + at * edge for corner, at, edge in zip(camera.corner, first, edges, strict=True)]
    joined = max(1, int(_LAYER_MM / edges[1]))
    count = -(-volume.shape[1] // joined)
    middle = start[1] + (np.arange(count) * joined + (joined - 1) / 2) * edges[1]
    magnified = (camera.source[1] - middle) / camera.source[1]
    lines = [_lines(camera.source[axis], start[axis], edges[axis], volume.shape[axis], magnified) for axis in (0, 2)]
    total = np.zeros((len(lines[0]), len(lines[1])), np.float32)
    for layer, scale in enumerate(magnified):
        slab = volume[:, layer * joined : (layer + 1) * joined]
        flat = slab.sum(axis=1) if slab.shape[1] > 1 else slab[:, 0]
        (above, below, upper, lower), (left, right, near, far) = (
            _taps((camera.source[axis] + (at - camera.source[axis]) * scale - start[axis]) / edges[axis], size)
            for axis, at, size in ((0, lines[0], flat.shape[0]), (2, lines[1], flat.shape[1]))
        )
        tall = flat[above] * upper[:, None] + flat[below] * lower[:, None]
        total += np.take(tall, left, axis=1) * near + np.take(tall, right, axis=1) * far
    points = [
        (pixels - line[0]) / edges[axis]
        for pixels, line, axis in zip((camera.down, camera.across), lines, (0, 2), strict=True)
    ]
    seen = ndimage.map_coordinates(total, np.stack(points), order=order, mode="constant", output=np.float32)
    return np.asarray(np.maximum(seen, 0) * (camera.slant * edges[1]), np.float32)


def shadow(mask: Mask, camera: Camera, least_mm: float = 2.0) -> Mask:
    """Pixels whose ray passes through at least ``least_mm`` of a mask of the volume: the place of a finding."""
    if not mask.any():
        return np.zeros(camera.down.shape, bool)
    cuts = []
    for axis in range(3):
        hit = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        cuts.append(slice(int(hit[0]), int(hit[-1]) + 1))
    part = mask[tuple(cuts)].astype(np.float32)
    first = (cuts[0].start, cuts[1].start, cuts[2].start)
    return np.asarray(project(part, camera, first=first, order=1) >= least_mm)


def _lines(source: float, start: float, edge: float, count: int, magnified: NDArray[np.float64]) -> NDArray[np.float64]:
    """Positions in mm on the middle layer that cover the projected volume, one voxel apart."""
    ends = np.array([start - edge, start + count * edge])[:, None]
    seen = source + (ends - source) / magnified
    return np.asarray(np.arange(seen.min(), seen.max() + edge, edge))


def _taps(at: NDArray[np.float64], count: int) -> tuple[NDArray[np.intp], NDArray[np.intp], Image, Image]:
    """The two voxels around each position and their weights; voxels outside have weight 0."""
    below = np.floor(at)
    share = at - below
    first = below.astype(np.intp)
    weights = (
        np.where((first >= 0) & (first < count), 1 - share, 0).astype(np.float32),
        np.where((first >= -1) & (first < count - 1), share, 0).astype(np.float32),
    )
    return np.clip(first, 0, count - 1), np.clip(first + 1, 0, count - 1), *weights
