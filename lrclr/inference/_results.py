"""What an image is answered with."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["FindingResult", "Prediction", "Region"]


@dataclass(frozen=True)
class Region:
    """A selected patch.

    Attributes:
        patch: its number, row-major.
        importance: attention rollout of CLS on it.
        box: ``(left, top, right, bottom)`` in pixels of the original image.
    """

    patch: int
    importance: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class FindingResult:
    """One finding's answer.

    Attributes:
        name: the finding.
        probability: share of the positive prompts in the softmax of positive and negative score, in [0, 1].
        global_positive, global_negative: cosine of the image with the prompts of that sign, their mean.
        local_positive, local_negative: the fusion head's score, likewise.
        region_attention: of the positive prompts on each of the prediction's regions; sums to 1.
    """

    name: str
    probability: float
    global_positive: float
    global_negative: float
    local_positive: float
    local_negative: float
    region_attention: tuple[float, ...]


@dataclass(frozen=True)
class Prediction:
    """The answer for one image. Research use only.

    Attributes:
        height, width: of the original image, in pixels.
        findings: in the order of the findings asked for.
        regions: the R selected regions; a patch that several heads picked stands as often as it was picked.
        alpha: weight that the local scores had.
        fusion_trained: whether the fusion head was ever tuned; if not, local scores and region attention mean nothing.
        remarks: what was ignored in the image's file; see `lrclr.images.ReducedImage`.
    """

    height: int
    width: int
    findings: tuple[FindingResult, ...]
    regions: tuple[Region, ...]
    alpha: float
    fusion_trained: bool
    remarks: tuple[str, ...] = ()

    def finding(self, name: str) -> FindingResult:
        """The result of one finding; KeyError if it was not asked for."""
        for finding in self.findings:
            if finding.name == name:
                return finding
        raise KeyError(name)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)
