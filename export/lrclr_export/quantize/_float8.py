"""FP8 in the format E4M3 (one sign bit, 4 of exponent, 3 of mantissa, no infinity): operators of torch, and their ONNX.

torch.ops.quantized_decomposed has no FP8 with scales in float16, which typed graphs in half precision need.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from onnxscript.onnx_opset import opset19
from torch import Tensor

LARGEST_FP8 = 448.0
_SMALLEST_SCALE = float(torch.finfo(torch.float16).tiny)
FIRST_OPSET = 19
"""First ONNX operator set with FP8."""


def scale_for(largest: float) -> float:
    """The scale at which `largest` becomes the largest number of FP8: NVIDIA's calibration by the maximum.

    Graphs store it in float16, so it is rounded up to a normal number of that type.
    """
    wanted = np.float16(largest / LARGEST_FP8)
    if float(wanted) * LARGEST_FP8 < largest:
        wanted = np.nextafter(wanted, np.float16(np.inf))
    return max(float(wanted), _SMALLEST_SCALE)


@torch.library.custom_op("lrclr::round_to_fp8", mutates_args=())
def _round(x: Tensor, scale: float) -> Tensor:
    # Beyond the largest number, torch's conversion gives NaN, and QuantizeLinear the largest number.
    numbers = (x.float() / scale).clamp(-LARGEST_FP8, LARGEST_FP8).to(torch.float8_e4m3fn)
    return (numbers.float() * scale).to(x.dtype)


@_round.register_fake
def _(x: Tensor, scale: float) -> Tensor:  # noqa: ARG001 - the operator's signature
    return torch.empty_like(x)


@torch.library.custom_op("lrclr::from_fp8", mutates_args=())
def _from(numbers: Tensor, like: Tensor, scale: float) -> Tensor:
    return (numbers.float() * scale).to(like.dtype)


@_from.register_fake
def _(numbers: Tensor, like: Tensor, scale: float) -> Tensor:  # noqa: ARG001 - the operator's signature
    return torch.empty_like(numbers, dtype=like.dtype)


def rounded(x: Tensor, scale: float) -> Tensor:
    """Round to FP8 and back; what exceeds the largest number becomes it."""
    result: Tensor = _round(x, scale)
    return result


def dequantised(numbers: Tensor, like: Tensor, scale: float) -> Tensor:
    """Numbers in FP8 times a scale, in the type of another tensor."""
    result: Tensor = _from(numbers, like, scale)
    return result


def _constants(dtype: ir.DataType, scale: float) -> tuple[Any, Any]:
    made = ir.tensor(np.array(scale, dtype.numpy()))
    zero = ir.tensor(np.zeros((), ir.DataType.FLOAT8E4M3FN.numpy()), dtype=ir.DataType.FLOAT8E4M3FN)
    return opset19.Constant(value=made), opset19.Constant(value=zero)


def _translate_round(x: Any, scale: float) -> Any:
    made, zero = _constants(x.dtype, scale)
    return opset19.DequantizeLinear(opset19.QuantizeLinear(x, made, zero), made, zero)


def _translate_from(numbers: Any, like: Any, scale: float) -> Any:
    made, zero = _constants(like.dtype, scale)
    return opset19.DequantizeLinear(numbers, made, zero)


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.lrclr.round_to_fp8.default: _translate_round,
    torch.ops.lrclr.from_fp8.default: _translate_from,
}
