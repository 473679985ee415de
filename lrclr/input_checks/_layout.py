"""Checks whether a frontal chest radiograph is turned, upside down or inverted, by its likeness to a mean radiograph.

A radiograph that is exchanged left for right is not found: the mean radiograph is symmetric.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

GRID: Final = 8
# Left half of the mean of 200 radiographs of the phantom, without a tenth at each edge: centred, of unit length.
# `python -m benchmarks.input_checks template` computes it.
_LEFT_HALF: Final = np.array(
    [
        [-0.035, 0.009, -0.039, 0.023],
        [-0.037, -0.085, -0.163, -0.019],
        [-0.041, -0.135, -0.169, 0.043],
        [-0.061, -0.168, -0.121, 0.126],
        [-0.130, -0.145, -0.035, 0.173],
        [-0.133, 0.009, 0.082, 0.200],
        [-0.084, 0.097, 0.181, 0.253],
        [-0.091, 0.091, 0.162, 0.242],
    ],
    np.float32,
)
_MEAN: Final = np.concatenate([_LEFT_HALF, _LEFT_HALF[:, ::-1]], axis=1)
# By how much another orientation must be more like the mean radiograph than the given one.
_MARGIN: Final = 0.15
# Which turned copies of the mean radiograph have which warning. The mirrored copies are equal.
_TURNED: Final = (np.rot90(_MEAN, 1), np.rot90(_MEAN, 3))
_UPSIDE_DOWN: Final = np.rot90(_MEAN, 2)


def layout_grid(grey: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Means of 8 x 8 parts of a picture ``[h, w]``, centred and of unit length."""
    image = Image.fromarray(np.ascontiguousarray(grey))
    grid = np.asarray(image.resize((GRID, GRID), Image.Resampling.BOX), np.float32)
    grid = grid - grid.mean()
    length = float(np.sqrt((grid * grid).sum()))
    unit: NDArray[np.float32] = grid / np.float32(length or 1.0)
    return unit


def layout_warning(grey: NDArray[np.uint8]) -> str | None:
    """The code for the orientation that a picture ``[h, w]`` has instead of the usual one; None for the usual one."""
    grid = layout_grid(grey)
    upright = float((grid * _MEAN).sum())
    others = {
        "turned": max(float((grid * turned).sum()) for turned in _TURNED),
        "upside_down": float((grid * _UPSIDE_DOWN).sum()),
        "inverted": -upright,
    }
    code = max(others, key=lambda each: others[each])
    return code if others[code] - upright > _MARGIN else None
