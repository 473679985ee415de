"""Launches the region kernel on torch's tensors by calls of the CUDA driver, for tests and measurements.

In a plan, TensorRT launches it.
"""

from __future__ import annotations

import ctypes
import struct
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from lrclr._kernels import LAYERS, MAX_TOP_K, Form, entry_ptx, form_for, max_nodes
from lrclr.errors import EngineError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def capability() -> int:
    """Compute capability of the current GPU, times ten."""
    major, minor = torch.cuda.get_device_capability()
    return 10 * major + minor


def launch(  # noqa: PLR0913 - the kernel's arguments
    queries: Sequence[Tensor],
    keys: Sequence[Tensor],
    start: Tensor,
    tokens: Tensor,
    top_k: int,
    mean: bool,
    *,
    prefix: int = 1,
    scale: float | None = None,
    form: Form | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Select regions from the layers' queries and keys; the kernel computes the attention maps again.

    Does not wait for the device.

    Args:
        queries: queries of each layer but the last, ``[B, N, H, C]`` float16; may be views of a merged product.
        keys: keys, like `queries`.
        start: attention of the start row in the last layer, ``[B, H, N]`` float32, or its mean ``[B, 1, N]``.
        tokens: ``[B, N, D]``.
        top_k: patches per chain.
        mean: average the heads of a layer.
        prefix: tokens before the patches: 1 with a CLS token, else 0.
        scale: factor on the product of a query and a key; ``None`` for one by the root of the width of a head.
        form: form of the kernel; ``None`` for the one that suits the sizes.

    Returns:
        Tokens ``[B, prefix+R, D]``, index ``[B, R]`` int64 and importance ``[B, R]`` float32.

    Raises:
        UsageError: the kernel does not support a size or type.
        EngineError: the driver refused a call.
    """
    batch, nodes, heads, width = queries[0].shape
    views = [*queries, *keys]
    if not (
        len(queries) == len(keys)
        and len(queries) + 1 in LAYERS.get(width, ())
        and nodes <= max_nodes(width)
        and 1 <= top_k <= min(MAX_TOP_K, nodes - prefix)
        and all(one.shape == queries[0].shape and one.dtype == torch.float16 and one.is_cuda for one in views)
    ):
        raise UsageError(
            f"the region kernel does not take {len(queries)} layers before the last, {queries[0].dtype}, "
            f"{nodes} tokens, heads of {width} and k {top_k}",
            fix=f"It takes float16, k up to {MAX_TOP_K}, and these numbers of layers by width of a head: {LAYERS}.",
        )
    stride = views[0].stride(1)
    layout = (nodes * stride, stride, width, 1)
    if stride % 8 or any(one.stride() != layout or one.data_ptr() % 16 for one in views):
        views = [one.contiguous() for one in views]
        stride = heads * width
    chains = 1 if mean else heads
    rows = tokens.contiguous()
    first = start.float().mean(1, keepdim=True) if mean else start.float().contiguous()
    out = rows.new_empty((batch, top_k * chains + prefix, rows.shape[-1]))
    index = rows.new_empty((batch, top_k * chains), dtype=torch.int64)
    importance = rows.new_empty((batch, top_k * chains), dtype=torch.float32)
    if batch == 0:
        return out, index, importance
    half = len(queries)
    tensors = [rows, first, *(one for pair in zip(views[:half], views[half:], strict=True) for one in pair)]
    row_bytes = rows.shape[-1] * rows.element_size()
    (scale_bits,) = struct.unpack("i", struct.pack("f", width**-0.5 if scale is None else scale))
    scalars = (heads, int(mean), nodes, prefix, top_k, row_bytes, stride, scale_bits)
    arguments = [
        *(ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors),
        *(ctypes.c_int(scalar) for scalar in scalars),
        *(ctypes.c_void_p(tensor.data_ptr()) for tensor in (out, index, importance)),
    ]
    with torch.cuda.device(rows.device):
        chosen = form or form_for(nodes, batch * chains, capability(), width)
        kernel = _kernel(rows.device.index, chosen.entry(half + 1))
        _launch(kernel, (chains * chosen.blocks, batch, 1), (chosen.threads(nodes), 1, 1), arguments)
    return out, index, importance


def _launch(
    kernel: ctypes.c_void_p, grid: tuple[int, int, int], block: tuple[int, int, int], arguments: list[Any]
) -> None:
    packed = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(argument) for argument in arguments))
    stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
    _driver("cuLaunchKernel", kernel, *grid, *block, 0, stream, packed, None)


@cache
def _kernel(_device: int, entry: str) -> ctypes.c_void_p:
    """The kernel, loaded once for each device in torch's context, which is current."""
    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    _driver("cuModuleLoadData", ctypes.byref(module), entry_ptx(entry, capability()) + b"\0")
    _driver("cuModuleGetFunction", ctypes.byref(function), module, entry.encode())
    return function


def _driver(call: str, *arguments: Any) -> None:
    cuda = ctypes.CDLL("libcuda.so.1")
    status = getattr(cuda, call)(*arguments)
    if status != 0:
        text = ctypes.c_char_p()
        cuda.cuGetErrorString(status, ctypes.byref(text))
        why = text.value.decode() if text.value else f"error {status}"
        raise EngineError(f"the CUDA driver refused {call} for the region kernel", why=why)
