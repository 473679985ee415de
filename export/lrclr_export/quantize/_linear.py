"""Linear layers whose products are of rounded numbers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch

# Makes quantized_decomposed known to torch: operators that the exporter writes as QuantizeLinear and DequantizeLinear.
import torch.ao.quantization.fx._decomposed
from torch import Tensor, nn

from lrclr_export.quantize._float8 import LARGEST_FP8, dequantised, rounded, scale_for

LARGEST_WEIGHT = 63
"""Of a weight in int8. Without VNNI, x86 adds two products of an unsigned and a signed byte in 16 bits and saturates;
twice 255 * 63 is the most that can come."""

_LOWEST, _HIGHEST = -128, 127
_ops = torch.ops.quantized_decomposed


class QuantizedLinear(nn.Module, ABC):
    """A linear layer that rounds its weights, and its input by one static scale.

    Args:
        scale: scale of the input, whose zero point is 0.
        bias: bias of the layer; None without one.

    Attributes:
        rounds_input: whether the input is rounded; False only where weights shall be judged apart from it.
    """

    def __init__(self, scale: float, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.scale = scale
        self.rounds_input = True
        self.bias = bias

    @abstractmethod
    def rounded(self, x: Tensor) -> Tensor:
        """The input after rounding, in its own type."""

    @abstractmethod
    def stored_weight(self, x: Tensor) -> Tensor:
        """The weights ``[in, out]`` that are stored, in the type of the input."""

    @abstractmethod
    def steps_off(self, weight: Tensor) -> float:
        """How far the stored weights are from ``weight [in, out]`` at most, in steps of the stored type."""

    def forward(self, x: Tensor) -> Tensor:
        if self.rounds_input:
            x = self.rounded(x)
        product = torch.matmul(x, self.stored_weight(x))
        return product if self.bias is None else product + self.bias


class Int8Linear(QuantizedLinear):
    """`linear` with its weights rounded to 7 bits per output, and its input to int8.

    Args:
        linear: the layer.
        scale: of the input; its zero point is 0.
        factors: ``[in]``, by which the input comes divided: the weights make up for it.
    """

    def __init__(self, linear: nn.Linear, scale: float, factors: Tensor | None = None) -> None:
        super().__init__(scale, linear.bias)
        weight = linear.weight.detach()
        if factors is not None:
            weight = weight * factors
        # Transposed here: between the weights and their product no other node may stand.
        weight = weight.t().contiguous()
        each = (weight.abs().amax(0) / LARGEST_WEIGHT).clamp_min(torch.finfo(torch.float32).tiny)
        self.register_buffer("weight", torch.round(weight / each).to(torch.int8))
        self.register_buffer("weight_scale", each)
        self.register_buffer("weight_zero", torch.zeros_like(each, dtype=torch.int8))

    def rounded(self, x: Tensor) -> Tensor:
        number = _ops.quantize_per_tensor(x, self.scale, 0, _LOWEST, _HIGHEST, torch.int8)
        result: Tensor = _ops.dequantize_per_tensor(number, self.scale, 0, _LOWEST, _HIGHEST, torch.int8)
        return result

    def stored_weight(self, x: Tensor) -> Tensor:  # noqa: ARG002 - in float32, as the input
        weight: Tensor = _ops.dequantize_per_channel(
            self.weight, self.weight_scale, self.weight_zero, 1, _LOWEST, _HIGHEST, torch.int8
        )
        return weight

    def steps_off(self, weight: Tensor) -> float:
        stored: Any = self
        return float((weight.double() / stored.weight_scale - stored.weight.double()).abs().max())


class Fp8Linear(QuantizedLinear):
    """`linear` with its weights and its input rounded to FP8 (E4M3), each by one scale.

    Args:
        linear: the layer.
        scale: of the input.
        weight_scale: of the weights. Layers whose products the exporter merges have the same.
    """

    def __init__(self, linear: nn.Linear, scale: float, weight_scale: float) -> None:
        super().__init__(scale, linear.bias)
        weight = linear.weight.detach().t().contiguous() / weight_scale
        self.weight_scale = weight_scale
        self.register_buffer("weight", weight.clamp(-LARGEST_FP8, LARGEST_FP8).to(torch.float8_e4m3fn))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        # A network that is converted to float16 or float32 keeps these weights in FP8.
        weight = self.get_buffer("weight")
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.weight = weight
        return self

    def rounded(self, x: Tensor) -> Tensor:
        return rounded(x, self.scale)

    def stored_weight(self, x: Tensor) -> Tensor:
        return dequantised(self.get_buffer("weight"), x, self.weight_scale)

    def steps_off(self, weight: Tensor) -> float:
        stored = self.get_buffer("weight")
        limits, wanted = torch.finfo(torch.float8_e4m3fn), weight.double() / self.weight_scale
        # Below the smallest normal number the step stays the same.
        step = limits.eps * wanted.abs().clamp_min(limits.tiny)
        return float(((stored.double() - wanted).abs() / step).max())


def fp8_layers(layers: list[nn.Linear], scale: float) -> list[QuantizedLinear]:
    """Layers that share their input, with one scale for the weights of all."""
    shared = scale_for(max(float(layer.weight.detach().abs().max()) for layer in layers))
    return [Fp8Linear(layer, scale, shared) for layer in layers]
