"""What the region kernel shall compute, in float64, and the kernel's own code compiled for this machine."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

TYPES = {"float32": np.dtype(np.float32), "float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


@dataclass(frozen=True)
class Selection:
    """Arrays as `lrclr.model.Regions` has them."""

    tokens: NDArray[Any]
    index: NDArray[np.int64]
    importance: NDArray[np.floating[Any]]


class Shape(ctypes.Structure):
    """``lrclr::Shape``."""

    _fields_ = [
        (name, ctypes.c_int) for name in ("layers", "heads", "mean", "nodes", "last_rows", "top_k", "row_bytes")
    ]


def rollout(maps: Sequence[NDArray[Any]], *, mean: bool) -> NDArray[np.float64]:
    """``[B, G, N-1]``, importance of every patch."""
    row = _prepared(maps[-1].astype(np.float64)[:, :, :1], mean=mean)
    for matrix in reversed(maps[:-1]):
        row = row @ _prepared(matrix.astype(np.float64), mean=mean)
    return row[:, :, 0, 1:]


def _prepared(matrix: NDArray[np.float64], *, mean: bool) -> NDArray[np.float64]:
    if not mean:
        return matrix
    mixed = matrix.mean(1, keepdims=True) + np.eye(matrix.shape[-2], matrix.shape[-1])
    normal: NDArray[np.float64] = mixed / mixed.sum(-1, keepdims=True)
    return normal


def reference(maps: Sequence[NDArray[Any]], tokens: NDArray[Any], top_k: int, *, mean: bool) -> Selection:
    """In float64, ties towards the lower patch; a chain that is not finite has NaN for importance."""
    importance = rollout(maps, mean=mean)
    finite = np.isfinite(importance)
    order = np.argsort(-np.where(finite, importance, -np.inf), axis=-1, kind="stable")[..., :top_k]
    values = np.take_along_axis(importance, order, -1)
    values = np.where(finite.all(-1, keepdims=True), values, np.nan)
    index = order.reshape(len(tokens), -1)
    return Selection(gathered(tokens, index), index, values.reshape(len(tokens), -1))


def gathered(tokens: NDArray[Any], index: NDArray[np.int64]) -> NDArray[Any]:
    """CLS, and the tokens of these patches."""
    rows = np.concatenate([np.zeros_like(index[:, :1]), index + 1], axis=1)
    return np.take_along_axis(tokens, rows[..., None], axis=1)


class HostKernel:
    """The device's code on the host, thread by thread.

    Args:
        library: compiled from the kernel's source.
    """

    def __init__(self, library: str) -> None:
        self._call = ctypes.CDLL(library).lrclr_region_select
        self._call.restype = None

    def __call__(
        self, maps: Sequence[NDArray[Any]], tokens: NDArray[Any], top_k: int, *, mean: bool, threads: int = 256
    ) -> Selection:
        images, heads, last_rows, nodes = maps[-1].shape
        kept = [np.ascontiguousarray(one) for one in maps]
        rows = np.ascontiguousarray(tokens)
        regions = top_k * (1 if mean else heads)
        # Filled with what no result may be.
        out = np.full((images, regions + 1, *tokens.shape[2:]), 77, tokens.dtype)
        index = np.full((images, regions), -7, np.int64)
        importance = np.full((images, regions), -7, np.float32)
        shape = Shape(len(maps), heads, int(mean), nodes, last_rows, top_k, rows[0, 0].nbytes)
        self._call(
            list(TYPES.values()).index(maps[0].dtype),
            threads,
            images,
            (ctypes.c_void_p * len(kept))(*(one.ctypes.data for one in kept)),
            ctypes.byref(shape),
            *(ctypes.c_void_p(array.ctypes.data) for array in (rows, out, index, importance)),
        )
        return Selection(out, index, importance)
