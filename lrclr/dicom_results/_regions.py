"""The regions of a prediction as DICOM has them: one box a patch, inside the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lrclr.inference import Prediction


@dataclass(frozen=True)
class PatchRegion:
    """A selected patch.

    Attributes:
        patch: its number, row-major.
        box: left, top, right and bottom in pixels of the image; 0 is its left or upper edge.
        importance: attention rollout of CLS on it, summed over the heads that picked it.
        attention: attention of each finding, summed in the same way. Empty if the fusion head is not trained.
    """

    patch: int
    box: tuple[float, float, float, float]
    importance: float
    attention: dict[str, float]

    @property
    def outline(self) -> NDArray[np.float64]:
        """A closed polyline of five points, ``[5, 2]`` as column and row.

        The coordinates of SCOORD and of presentation states agree: the outer corner of the first pixel is 0\\0.
        """
        left, top, right, bottom = self.box
        return np.array([[left, top], [right, top], [right, bottom], [left, bottom], [left, top]], np.float64)


def patch_regions(prediction: Prediction) -> list[PatchRegion]:
    """The patches with a part in the image, the most important first."""
    places: dict[int, list[int]] = {}
    for place, region in enumerate(prediction.regions):
        places.setdefault(region.patch, []).append(place)
    regions = []
    for patch, same in places.items():
        left, top, right, bottom = prediction.regions[same[0]].box
        box = (
            max(left, 0.0),
            max(top, 0.0),
            min(right, float(prediction.width)),
            min(bottom, float(prediction.height)),
        )
        if box[2] > box[0] and box[3] > box[1]:
            importance = sum(prediction.regions[place].importance for place in same)
            findings = prediction.findings if prediction.fusion_trained else ()
            attention = {each.name: sum(each.region_attention[place] for place in same) for each in findings}
            regions.append(PatchRegion(patch, box, importance, attention))
    return sorted(regions, key=lambda region: (-region.importance, region.patch))


def decimal(value: float) -> float:
    """A number that has no more than the 16 characters of value representation DS."""
    return float(f"{value:.6g}")
