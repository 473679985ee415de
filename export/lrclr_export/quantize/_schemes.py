"""The types that a network can be quantised to, and how ranges, weights and scales are chosen for each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from lrclr.errors import UsageError
from lrclr_export.product_types import PRODUCT_TYPES
from lrclr_export.quantize._float8 import scale_for
from lrclr_export.quantize._linear import LARGEST_WEIGHT, Int8Linear, fp8_layers
from lrclr_export.quantize._ranges import range_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor, nn

    from lrclr_export.quantize._linear import QuantizedLinear
    from lrclr_export.quantize._ranges import Inputs

    # Inputs of layers that share them, the layers, and whether a LayerNorm before them may even out channels.
    # It returns the layers, and the factors by which the LayerNorm's output has to be divided.
    Maker = Callable[[Inputs, list[nn.Linear], bool], tuple[Sequence[QuantizedLinear], Tensor | None]]


@dataclass(frozen=True)
class Scheme:
    """How a network is quantised.

    Attributes:
        name: name of the precision.
        weights, activations: descriptions for the manifest.
        patches: whether the embedding of patches is quantised.
        graphs: the graphs whose layers are quantised.
        layers: makes quantised layers.
    """

    name: str
    weights: str
    activations: str
    patches: bool
    graphs: tuple[str, ...]
    layers: Maker

    @property
    def otherwise(self) -> str:
        """Type of the layers that are not quantised."""
        return PRODUCT_TYPES[self.name][1]


def _int8(inputs: Inputs, layers: list[nn.Linear], even_out: bool) -> tuple[Sequence[QuantizedLinear], Tensor | None]:
    found = range_of(inputs, layers, even_out=even_out)
    return [Int8Linear(layer, found.scale, found.factors) for layer in layers], found.factors


def _fp8(inputs: Inputs, layers: list[nn.Linear], even_out: bool) -> tuple[Sequence[QuantizedLinear], Tensor | None]:  # noqa: ARG001
    # A number with an exponent has the same relative step in small and large channels: nothing has to be evened out.
    return fp8_layers(layers, scale_for(float(inputs.largest.max()))), None


_SCHEMES: Final = {
    scheme.name: scheme
    for scheme in (
        Scheme(
            "int8",
            weights=f"symmetric per output, {-LARGEST_WEIGHT} to {LARGEST_WEIGHT}",
            activations="int8, symmetric per tensor, static, of least squared error",
            patches=True,
            graphs=("image_encoder", "text_encoder", "fusion_head"),
            layers=_int8,
        ),
        Scheme(
            "fp8",
            weights="E4M3, one scale for layers with the same input, of the largest value",
            activations="E4M3, one static scale per tensor, of the largest value",
            patches=False,
            # The fusion head takes a small part of the time, and its scores lose the most.
            graphs=("image_encoder", "text_encoder"),
            layers=_fp8,
        ),
    )
}
QUANTISED: Final = tuple(_SCHEMES)
"""Precisions whose layers are quantised."""


def scheme_of(precision: str) -> Scheme:
    """The scheme of a precision.

    Raises:
        UsageError: the precision is not quantised.
    """
    if precision not in _SCHEMES:
        raise UsageError(f"{precision} is not quantised", fix=f"Choose {' or '.join(_SCHEMES)}.")
    return _SCHEMES[precision]
