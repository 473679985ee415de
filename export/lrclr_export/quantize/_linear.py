"""A linear layer whose product is of int8 numbers."""

from __future__ import annotations

import torch

# Makes quantized_decomposed known to torch: operators that the exporter writes as QuantizeLinear and DequantizeLinear.
import torch.ao.quantization.fx._decomposed
from torch import Tensor, nn

LARGEST_WEIGHT = 63
"""Of a quantised weight. Without VNNI, x86 adds two products of an unsigned and a signed byte in 16 bits and saturates;
twice 255 * 63 is the most that can come."""

_LOWEST, _HIGHEST = -128, 127
_ops = torch.ops.quantized_decomposed


class Int8Linear(nn.Module):
    """`linear` with its weights rounded to 7 bits per output, and its input to int8 by one static scale.

    Args:
        linear: the layer.
        scale: scale of the input, whose zero point is 0.
        factors: ``[in]``, by which the input comes divided: the weights make up for it.

    Attributes:
        rounds_input: whether the input is rounded; False only where weights shall be judged apart from it.
    """

    def __init__(self, linear: nn.Linear, scale: float, factors: Tensor | None = None) -> None:
        super().__init__()
        weight = linear.weight.detach()
        if factors is not None:
            weight = weight * factors
        # Transposed here: between the weights and their product no other node may stand.
        weight = weight.t().contiguous()
        each = (weight.abs().amax(0) / LARGEST_WEIGHT).clamp_min(torch.finfo(torch.float32).tiny)
        self.scale = scale
        self.rounds_input = True
        self.register_buffer("weight", torch.round(weight / each).to(torch.int8))
        self.register_buffer("weight_scale", each)
        self.register_buffer("weight_zero", torch.zeros_like(each, dtype=torch.int8))
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        if self.rounds_input:
            rounded = _ops.quantize_per_tensor(x, self.scale, 0, _LOWEST, _HIGHEST, torch.int8)
            x = _ops.dequantize_per_tensor(rounded, self.scale, 0, _LOWEST, _HIGHEST, torch.int8)
        weight = _ops.dequantize_per_channel(
            self.weight, self.weight_scale, self.weight_zero, 1, _LOWEST, _HIGHEST, torch.int8
        )
        product = torch.matmul(x, weight)
        return product if self.bias is None else product + self.bias
