"""Answers for images: arrays for a batch (`Answers`), and one record for each image (`Prediction`)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from lrclr.text import unknown_finding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["Answers", "FindingResult", "Prediction", "Region"]


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
        """Return the result of one finding.

        Raises:
            FindingsError: the prediction has no such finding. The text names the nearest one, or all of them.
        """
        known = {finding.name: finding for finding in self.findings}
        if name not in known:
            raise unknown_finding(name, known)
        return known[name]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Answers:
    """What a model says of B images about F findings, in arrays.

    Attributes:
        probability: ``[B, F]``, with the alpha that was asked for.
        global_positive, global_negative: ``[B, F]``, cosine of the image with the prompts of that sign, their mean.
        local_positive, local_negative: ``[B, F]``, the fusion head's score, likewise.
        region_attention: ``[B, F, R]``, of the positive prompts on each selected region, their mean.
        region_index: ``[B, R]``, the regions' patches, row-major.
        region_importance: ``[B, R]``, attention rollout of CLS on them.
    """

    probability: NDArray[np.float32]
    global_positive: NDArray[np.float32]
    global_negative: NDArray[np.float32]
    local_positive: NDArray[np.float32]
    local_negative: NDArray[np.float32]
    region_attention: NDArray[np.float32]
    region_index: NDArray[np.int64]
    region_importance: NDArray[np.float32]

    @classmethod
    def joined(cls, parts: Sequence[Answers]) -> Answers:
        """Answers for the images of all parts, in order."""
        if len(parts) == 1:
            return parts[0]
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in cls.names()})

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Names of the arrays, in order."""
        return tuple(field.name for field in fields(cls))

    def of_image(self, image: int) -> Answers:
        """One image's answers: copies of the arrays' rows, which do not keep the whole batch in memory."""
        return Answers(**{name: getattr(self, name)[image].copy() for name in self.names()})

    def predictions(
        self,
        findings: Sequence[str],
        sizes: Sequence[Sequence[int]],
        boxes: Sequence[Sequence[tuple[float, float, float, float]]],
        *,
        alpha: float,
        fusion_trained: bool,
    ) -> list[Prediction]:
        """One record for each image.

        Args:
            findings: F names.
            sizes: height and width of each original image, in pixels.
            boxes: of each image's R regions, ``(left, top, right, bottom)`` in pixels of the original image.
            alpha: weight that the local scores had.
            fusion_trained: whether the fusion head was ever tuned.
        """
        predictions = []
        for b, (height, width) in enumerate(sizes):
            regions = tuple(
                Region(int(patch), float(importance), box)
                for patch, importance, box in zip(
                    self.region_index[b], self.region_importance[b], boxes[b], strict=True
                )
            )
            results = tuple(
                FindingResult(
                    name,
                    float(self.probability[b, f]),
                    float(self.global_positive[b, f]),
                    float(self.global_negative[b, f]),
                    float(self.local_positive[b, f]),
                    float(self.local_negative[b, f]),
                    tuple(self.region_attention[b, f].tolist()),
                )
                for f, name in enumerate(findings)
            )
            predictions.append(Prediction(height, width, results, regions, alpha, fusion_trained))
        return predictions
