"""The region kernel on a GPU, by the driver's own calls. ``export/kernels`` holds its source."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from lrclr._kernels import MAX_LAYERS, MAX_NODES, MAX_TOP_K, region_ptx, threads_of
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
    arguments = [addresses, shape, *pointers]
    packed = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(argument) for argument in arguments))
    with torch.cuda.device(rows.device):
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        grid, block = (1 if mean else heads, batch, 1), (threads_of(nodes), 1, 1)
        _driver("cuLaunchKernel", _kernel(rows.device.index, _NAMES[kind]), *grid, *block, 0, stream, packed, None)
    return out, index, importance


@cache
def _kernel(_device: int, name: str) -> ctypes.c_void_p:
    """Loaded once a device, in torch's own context, which is current there."""
    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    _driver("cuModuleLoadData", ctypes.byref(module), region_ptx() + b"\0")
    _driver("cuModuleGetFunction", ctypes.byref(function), module, f"region_select_{name}".encode())
    return function


def _driver(call: str, *arguments: Any) -> None:
    cuda = ctypes.CDLL("libcuda.so.1")
    status = getattr(cuda, call)(*arguments)
    if status != 0:
        text = ctypes.c_char_p()
        cuda.cuGetErrorString(status, ctypes.byref(text))
        why = text.value.decode() if text.value else f"error {status}"
        raise EngineError(f"the driver could not do {call} for the region kernel", why=why)
