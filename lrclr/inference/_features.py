"""The features of an image: what the image encoder gives, kept for further questions about the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from lrclr.inference._decoding import DecodedImage

_OUTPUTS: Final = ("image_embedding", "region_tokens", "region_index", "region_importance")


@dataclass(frozen=True)
class ImageFeatures:
    """The image encoder's output for one image. `ZeroShotClassifier.predict_features` answers from it.

    Attributes:
        outputs: for each network, the outputs of its graph by name, without the batch axis; see
            `lrclr.contract`.
        size: height and width of the original image, in pixels.
        remarks: what was ignored in the image's file; see `lrclr.images.ReducedImage`.
        warnings: codes of `lrclr.input_checks`.
    """

    outputs: tuple[Mapping[str, NDArray[Any]], ...]
    size: tuple[int, int]
    remarks: tuple[str, ...]
    warnings: tuple[str, ...]

    @classmethod
    def of_row(cls, outputs: Sequence[Mapping[str, NDArray[Any]]], row: int, image: DecodedImage) -> Self:
        """Copy one row of a batch. A copy does not keep the batch in memory, nor memory that a server uses again."""
        return cls(
            tuple({name: each[name][row].copy() for name in _OUTPUTS} for each in outputs),
            image.size,
            image.remarks,
            image.warnings,
        )

    @staticmethod
    def stacked(features: Sequence[ImageFeatures], network: int) -> dict[str, NDArray[Any]]:
        """The outputs of several images as the graph of one of the networks gives them for a batch."""
        return {name: np.stack([one.outputs[network][name] for one in features]) for name in _OUTPUTS}

    @property
    def nbytes(self) -> int:
        """Size of the arrays, in bytes."""
        return sum(array.nbytes for each in self.outputs for array in each.values())
