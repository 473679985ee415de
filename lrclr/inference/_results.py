"""Results: arrays for a batch (`Answers`), and one record for each image (`Prediction`)."""

from __future__ import annotations

from dataclasses import MISSING, asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from lrclr.text import unknown_finding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True)
class Region:
    """A selected patch.

    Attributes:
        patch: number of the patch, row-major from 0.
        importance: attention rollout of CLS on the patch.
        box: ``(left, top, right, bottom)`` in pixels of the original image.
    """

    patch: int
    importance: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class FindingResult:
    """The result of one finding.

    Attributes:
        name: the finding.
        probability: in [0, 1]: share of the positive score in the softmax of positive and negative score.
        global_positive, global_negative: mean cosine of the image with the prompts of that sign.
        local_positive, local_negative: mean score of the fusion head for the prompts of that sign.
        region_attention: attention of the positive prompts on each region of the prediction, most of it of those that
            fit best; sums to 1.
        probability_spread: standard deviation (of the population) of the members' probabilities, whose mean is
            `probability`. None for a single network. The other values are those of the member that gives the
            regions.
    """

    name: str
    probability: float
    global_positive: float
    global_negative: float
    local_positive: float
    local_negative: float
    region_attention: tuple[float, ...]
    probability_spread: float | None = None


@dataclass(frozen=True)
class Prediction:
    """The findings of one image. Research use only.

    Attributes:
        height, width: size of the original image, in pixels.
        findings: in the order of the `FindingSet`.
        regions: the R selected regions; a patch that several heads picked stands as often as it was picked.
        alpha: weight that the local scores had.
        fusion_trained: whether the fusion head was ever tuned; if not, local scores and region attention mean nothing.
        remarks: what was ignored in the image's file; see `lrclr.images.ReducedImage`.
        warnings: why the image is probably not what the model is for: codes of `lrclr.input_checks`. They do not change
            the answer.
    """

    height: int
    width: int
    findings: tuple[FindingResult, ...]
    regions: tuple[Region, ...]
    alpha: float
    fusion_trained: bool
    remarks: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

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
        """Return the prediction in JSON's types."""
        return asdict(self)


@dataclass(frozen=True)
class ImageEmbeddings:
    """Embeddings of B images and of their R selected regions. All rows have unit length.

    Attributes:
        image: float32 ``[B, D]``, in the space of the text embeddings: the product with a text embedding is the cosine.
        region: float32 ``[B, R, W]``, the last hidden state of each selected patch. It is in the image tower's own
            space: compare regions with regions, not with texts or images.
        region_index: int64 ``[B, R]``, number of each region's patch, row-major from 0.
    """

    image: NDArray[np.float32]
    region: NDArray[np.float32]
    region_index: NDArray[np.int64]

    @classmethod
    def joined(cls, parts: Sequence[ImageEmbeddings]) -> ImageEmbeddings:
        """Concatenate the embeddings of several batches."""
        return cls(*(np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(cls)))


@dataclass(frozen=True)
class Answers:
    """Results of a model for B images and F findings, as arrays.

    Attributes:
        probability: ``[B, F]``, with the caller's alpha.
        global_positive, global_negative: ``[B, F]``, mean cosine of the image with the prompts of that sign.
        local_positive, local_negative: ``[B, F]``, mean score of the fusion head for the prompts of that sign.
        region_attention: ``[B, F, R]``, attention of the positive prompts on each selected region; see
            `lrclr.inference._scores.attention_of_groups`.
        region_index: ``[B, R]``, number of each region's patch, row-major from 0.
        region_importance: ``[B, R]``, attention rollout of CLS on each region.
        image_embedding: ``[B, D]``, of unit length; None if it was not asked for.
        probability_spread: ``[B, F]``, of an ensemble the standard deviation of its members' probabilities, whose mean
            is `probability`; None for a single network. The other arrays are those of the member that gives the
            regions.
    """

    probability: NDArray[np.float32]
    global_positive: NDArray[np.float32]
    global_negative: NDArray[np.float32]
    local_positive: NDArray[np.float32]
    local_negative: NDArray[np.float32]
    region_attention: NDArray[np.float32]
    region_index: NDArray[np.int64]
    region_importance: NDArray[np.float32]
    image_embedding: NDArray[np.float32] | None = None
    probability_spread: NDArray[np.float32] | None = None

    @classmethod
    def joined(cls, parts: Sequence[Answers]) -> Answers:
        """Concatenate the answers of several batches."""
        if len(parts) == 1:
            return parts[0]
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in parts[0].present()})

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the names of the arrays that are always there, in order."""
        return tuple(field.name for field in fields(cls) if field.default is MISSING)

    def present(self) -> tuple[str, ...]:
        """Return the names of the arrays that are there, in order."""
        return tuple(field.name for field in fields(self) if getattr(self, field.name) is not None)

    def of_image(self, image: int) -> Answers:
        """Return one image's answers: copies of its rows, which do not keep the whole batch in memory."""
        return Answers(**{name: getattr(self, name)[image].copy() for name in self.present()})

    def predictions(
        self,
        findings: Sequence[str],
        sizes: Sequence[Sequence[int]],
        boxes: Sequence[Sequence[tuple[float, float, float, float]]],
        *,
        alpha: float,
        fusion_trained: bool,
    ) -> list[Prediction]:
        """Return one record for each image.

        Args:
            findings: F names.
            sizes: height and width of each original image, in pixels.
            boxes: of each image's R regions, ``(left, top, right, bottom)`` in pixels of the original image.
            alpha: weight of the local scores.
            fusion_trained: whether the fusion head is trained.
        """
        predictions = []
        spread = self.probability_spread
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
                    None if spread is None else float(spread[b, f]),
                )
                for f, name in enumerate(findings)
            )
            predictions.append(Prediction(height, width, results, regions, alpha, fusion_trained))
        return predictions
