"""The kernel that selects regions from queries and keys: its own code compiled for this machine, and float64's answer."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from lrclr._kernels import QK_FORMS
from tests.kernels.region_reference import Selection

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

TYPES = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
HEAD_WIDTH = 64
ORDERS = ("forward", "reversed", "shuffled")
MAX_PAIRS = 23


class Sizes(ctypes.Structure):
    """``lrclr::Sizes``."""

    _fields_ = [
        *((name, ctypes.c_int) for name in ("layers", "heads", "mean", "nodes", "prefix", "top_k", "row_bytes")),
        ("row_stride", ctypes.c_int),
        ("scale", ctypes.c_float),
    ]


class _Inputs(ctypes.Structure):
    _fields_ = [
        ("queries", ctypes.c_void_p * MAX_PAIRS),
        ("keys", ctypes.c_void_p * MAX_PAIRS),
        ("start", ctypes.c_void_p),
        ("tokens", ctypes.c_void_p),
    ]


class _Outputs(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("region_tokens", "region_index", "region_importance")]


@dataclass(frozen=True)
class Case:
    """Arguments of a call.

    Attributes:
        queries: of the layers before the last, ``[B, N, H, 64]``; the last axis is contiguous.
        keys: like `queries`.
        start: attention of the start row in the last layer, ``[B, H, N]`` float32.
        tokens: ``[B, N, D]``.
        top_k: patches per chain.
        mean: average the heads.
        prefix: tokens before the patches.
        scale: of a score.
    """

    queries: Sequence[NDArray[Any]]
    keys: Sequence[NDArray[Any]]
    start: NDArray[np.float32]
    tokens: NDArray[Any]
    top_k: int
    mean: bool = False
    prefix: int = 1
    scale: float = 0.125


def importance(case: Case) -> NDArray[np.float64]:
    """``[B, G, N - prefix]``, the rollout in float64."""
    row = _mixed(case.start.astype(np.float64)[:, :, None], case, first=True)
    for query, key in zip(reversed(case.queries), reversed(case.keys), strict=True):
        scores = case.scale * np.einsum("bihc,bjhc->bhij", query.astype(np.float64), key.astype(np.float64))
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        row = row @ _mixed(weights / weights.sum(-1, keepdims=True), case)
    return row[:, :, 0, case.prefix :]


def _mixed(weights: NDArray[np.float64], case: Case, *, first: bool = False) -> NDArray[np.float64]:
    if not case.mean:
        return weights
    nodes = weights.shape[-1]
    return (weights.mean(1, keepdims=True) + np.eye(1 if first else nodes, nodes)) / 2


class HostKernel:
    """The device's code on the host.

    Args:
        library: compiled from the kernel's source.
    """

    def __init__(self, library: str) -> None:
        self._call = ctypes.CDLL(library).lrclr_region_select_qk
        self._call.restype = ctypes.c_int

    def __call__(self, case: Case, *, form: int, blocks: int = 1, order: str = "forward", seed: int = 0) -> Selection:
        """Run it.

        Args:
            case: the arguments.
            form: the most tokens that it takes.
            blocks: of a cluster.
            order: one of `ORDERS`, in which waiting threads go on.
            seed: of the shuffled order.
        """
        images, heads, nodes = case.start.shape
        queries, keys = list(case.queries), list(case.keys)
        strides = {one.strides[1] // one.itemsize for one in (*queries, *keys)} or {heads * HEAD_WIDTH}
        (stride,) = strides
        tokens = np.ascontiguousarray(case.tokens)
        start = np.ascontiguousarray(case.start)
        regions = case.top_k * (1 if case.mean else heads)
        # Filled with what no result may be.
        out = np.full((images, regions + case.prefix, *tokens.shape[2:]), 77, tokens.dtype)
        index = np.full((images, regions), -7, np.int64)
        values = np.full((images, regions), -7, np.float32)
        inputs = _Inputs(start=start.ctypes.data, tokens=tokens.ctypes.data)
        for place, (query, key) in enumerate(zip(queries, keys, strict=True)):
            inputs.queries[place], inputs.keys[place] = query.ctypes.data, key.ctypes.data
        sizes = Sizes(
            len(queries) + 1,
            heads,
            int(case.mean),
            nodes,
            case.prefix,
            case.top_k,
            tokens[0, 0].nbytes,
            stride,
            case.scale,
        )
        outputs = _Outputs(out.ctypes.data, index.ctypes.data, values.ctypes.data)
        kind = 1 + list(TYPES.values()).index(queries[0].dtype) if queries else 1
        status = self._call(
            kind,
            form,
            images,
            blocks,
            next(known for known in QK_FORMS if known.nodes == form).threads(nodes),
            ORDERS.index(order),
            seed,
            *(ctypes.byref(one) for one in (inputs, sizes, outputs)),
        )
        if status != 0:
            raise ValueError(f"the kernel has no form {form}")
        return Selection(out, index, values)
