"""The region kernel on a GPU, by the driver's own calls. ``export/kernels`` holds its source."""

from __future__ import annotations

import ctypes
import struct
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from lrclr._kernels import (
    HEAD_WIDTH,
    LAYERS,
    MAX_LAYERS,
    MAX_NODES,
    MAX_PAIRS,
    MAX_TOP_K,
    QK_FORMS,
    QkForm,
    entry_ptx,
    qk_form,
    threads_of,
)
from lrclr.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

_NAMES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}


class _Maps(ctypes.Structure):
    _fields_ = [("of_layer", ctypes.c_void_p * MAX_LAYERS)]


class _Shape(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_int) for name in ("layers", "heads", "mean", "nodes", "last_rows", "top_k", "row_bytes")
    ]


def launch(maps: Sequence[Tensor], tokens: Tensor, top_k: int, mean: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, index and importance of the regions; see `lrclr.model.select_regions`. Does not wait for the device.

    Raises:
        EngineError: a size or type that the kernel does not take, or the driver refused it.
    """
    batch, heads, last_rows, nodes = maps[-1].shape
    kind = maps[0].dtype
    if not (
        len(maps) <= MAX_LAYERS
        and nodes <= MAX_NODES
        and 1 <= top_k <= min(MAX_TOP_K, nodes - 1)
        and all(one.dtype == kind and one.is_cuda for one in maps)
        and kind in _NAMES
    ):
        raise EngineError(
            f"the region kernel does not take {len(maps)} {kind} maps of {nodes} tokens, k {top_k}",
            fix=f"It takes up to {MAX_LAYERS} layers, {MAX_NODES} tokens and k {MAX_TOP_K}; use select_regions.",
        )
    kept, rows = [one.contiguous() for one in maps], tokens.contiguous()
    regions = top_k * (1 if mean else heads)
    out = rows.new_empty((batch, regions + 1, rows.shape[-1]))
    index = rows.new_empty((batch, regions), dtype=torch.int64)
    importance = rows.new_empty((batch, regions), dtype=torch.float32)
    if batch == 0:
        return out, index, importance
    row_bytes = rows.shape[-1] * rows.element_size()
    addresses = _Maps((ctypes.c_void_p * MAX_LAYERS)(*(one.data_ptr() for one in kept)))
    shape = _Shape(len(kept), heads, int(mean), nodes, last_rows, top_k, row_bytes)
    pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (rows, out, index, importance)]
    grid, block = (1 if mean else heads, batch, 1), (threads_of(nodes), 1, 1)
    with torch.cuda.device(rows.device):
        kernel = _kernel(rows.device.index, "region_select.ptx", f"region_select_{_NAMES[kind]}")
        _launch(kernel, grid, block, [addresses, shape, *pointers])
    return out, index, importance


def launch_qk(
    queries: Sequence[Tensor],
    keys: Sequence[Tensor],
    start: Tensor,
    tokens: Tensor,
    top_k: int,
    mean: bool,
    *,
    prefix: int = 1,
    scale: float = HEAD_WIDTH**-0.5,
    form: QkForm | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Select regions from the layers' queries and keys; the kernel computes the attention maps again.

    Does not wait for the device.

    Args:
        queries: of each layer but the last, ``[B, N, H, 64]`` float16; views of a merged product are fine.
        keys: like `queries`.
        start: attention of the start row in the last layer, ``[B, H, N]`` float32, or its mean ``[B, 1, N]``.
        tokens: ``[B, N, D]``.
        top_k: patches per chain.
        mean: average the heads of a layer.
        prefix: tokens before the patches: 1 with a CLS token, else 0.
        scale: of the product of a query and a key.
        form: of the kernel; ``None`` for the one that suits the sizes.

    Returns:
        Tokens ``[B, prefix+R, D]``, index ``[B, R]`` int64 and importance ``[B, R]`` float32.

    Raises:
        EngineError: a size or type that the kernel does not take, or the driver refused it.
    """
    batch, nodes, heads, width = queries[0].shape
    capability = 10 * torch.cuda.get_device_capability(tokens.device)[0]
    views = [*queries, *keys]
    if not (
        len(queries) == len(keys) <= MAX_PAIRS
        and width == HEAD_WIDTH
        and nodes <= max(known.nodes for known in QK_FORMS)
        and 1 <= top_k <= min(MAX_TOP_K, nodes - prefix)
        and len(queries) + 1 in LAYERS
        and all(one.shape == queries[0].shape and one.dtype == torch.float16 and one.is_cuda for one in views)
    ):
        raise EngineError(
            f"the region kernel does not take {queries[0].dtype} queries of {len(queries)} layers, {nodes} tokens, width {width}, "
            f"k {top_k}",
            fix=f"It takes float16, {LAYERS} layers with the last, heads of {HEAD_WIDTH} and k up to {MAX_TOP_K}.",
        )
    stride = views[0].stride(1)
    layout = (nodes * stride, stride, HEAD_WIDTH, 1)
    if stride % 8 or any(one.stride() != layout or one.data_ptr() % 16 for one in views):
        views = [one.contiguous() for one in views]
        stride = heads * HEAD_WIDTH
    chains = 1 if mean else heads
    rows = tokens.contiguous()
    first = start.float().mean(1, keepdim=True) if mean else start.float().contiguous()
    out = rows.new_empty((batch, top_k * chains + prefix, rows.shape[-1]))
    index = rows.new_empty((batch, top_k * chains), dtype=torch.int64)
    importance = rows.new_empty((batch, top_k * chains), dtype=torch.float32)
    if batch == 0:
        return out, index, importance
    chosen = form or qk_form(nodes, batch * chains, capability)
    half = len(queries)
    tensors = [rows, first, *(one for pair in zip(views[:half], views[half:], strict=True) for one in pair)]
    row_bytes = rows.shape[-1] * rows.element_size()
    (scale_bits,) = struct.unpack("i", struct.pack("f", scale))
    scalars = (heads, int(mean), nodes, prefix, top_k, row_bytes, stride, scale_bits)
    arguments = [
        *(ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors),
        *(ctypes.c_int(scalar) for scalar in scalars),
        *(ctypes.c_void_p(tensor.data_ptr()) for tensor in (out, index, importance)),
    ]
    with torch.cuda.device(rows.device):
        ptx = f"region_select_qk_{90 if capability >= 90 else 80}.ptx"
        kernel = _kernel(rows.device.index, ptx, f"region_select_{chosen.name}_{half}")
        _launch(kernel, (chains * chosen.blocks, batch, 1), (chosen.threads(nodes), 1, 1), arguments)
    return out, index, importance


def _launch(
    kernel: ctypes.c_void_p, grid: tuple[int, int, int], block: tuple[int, int, int], arguments: list[Any]
) -> None:
    packed = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(argument) for argument in arguments))
    stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
    _driver("cuLaunchKernel", kernel, *grid, *block, 0, stream, packed, None)


@cache
def _kernel(_device: int, ptx: str, entry: str) -> ctypes.c_void_p:
    """Loaded once a device, in torch's own context, which is current there."""
    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    _driver("cuModuleLoadData", ctypes.byref(module), entry_ptx(ptx, entry) + b"\0")
    _driver("cuModuleGetFunction", ctypes.byref(function), module, entry.encode())
    return function


def _driver(call: str, *arguments: Any) -> None:
    cuda = ctypes.CDLL("libcuda.so.1")
    status = getattr(cuda, call)(*arguments)
    if status != 0:
        text = ctypes.c_char_p()
        cuda.cuGetErrorString(status, ctypes.byref(text))
        why = text.value.decode() if text.value else f"error {status}"
        raise EngineError(f"the driver could not do {call} for the region kernel", why=why)
