"""The region kernel's code compiled for this machine, and a reference in float64."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    # Private: the kernel itself, which no public function runs.
    from lrclr._kernels import Form

ORDERS = ("forward", "reversed", "shuffled")
MAX_PAIRS = 27


@dataclass(frozen=True)
class Selection:
    """The same arrays as in `lrclr.model.Regions`."""

    tokens: NDArray[Any]
    index: NDArray[np.int64]
    importance: NDArray[np.floating[Any]]


class Sizes(ctypes.Structure):
    """``lrclr::Sizes``."""

    _fields_ = [
        *((name, ctypes.c_int) for name in ("layers", "heads", "mean", "nodes", "prefix", "top_k", "row_bytes")),
        ("row_stride", ctypes.c_int),
        ("scale", ctypes.c_float),
    ]


class _Inputs(ctypes.Structure):
    _fields_ = [
        ("tokens", ctypes.c_void_p),
        ("start", ctypes.c_void_p),
        ("queries", ctypes.c_void_p * MAX_PAIRS),
        ("keys", ctypes.c_void_p * MAX_PAIRS),
    ]


class _Outputs(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("region_tokens", "region_index", "region_importance")]


@dataclass(frozen=True)
class Case:
    """Arguments of a call.

    Attributes:
        queries: queries of the layers before the last, ``[B, N, H, C]``. The last axis is contiguous.
        keys: keys, like `queries`.
        start: attention of the start row in the last layer, ``[B, H, N]`` float32; with `mean` ``[B, 1, N]``.
        tokens: tokens ``[B, N, D]``.
        top_k: number of patches per chain.
        mean: whether heads are averaged.
        prefix: number of tokens before the patches.
        scale: factor of a score.
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
    """The attention rollout ``[B, G, N - prefix]`` in float64."""
    row = case.start.astype(np.float64)[:, :, None]
    if case.mean and case.prefix:
        row = (row + np.eye(1, row.shape[-1])) / 2
    for query, key in zip(reversed(case.queries), reversed(case.keys), strict=True):
        scores = case.scale * np.einsum("bihc,bjhc->bhij", query.astype(np.float64), key.astype(np.float64))
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        row = row @ _mixed(weights / weights.sum(-1, keepdims=True), case)
    found: NDArray[np.float64] = row[:, :, 0, case.prefix :]
    return found


def _mixed(weights: NDArray[np.float64], case: Case) -> NDArray[np.float64]:
    if not case.mean:
        return weights
    mixed: NDArray[np.float64] = (weights.mean(1, keepdims=True) + np.eye(weights.shape[-1])) / 2
    return mixed


class HostKernel:
    """The device's code on the host.

    Args:
        library: compiled from the kernel's source.
    """

    def __init__(self, library: str) -> None:
        self._call = ctypes.CDLL(library).lrclr_region_select
        self._call.restype = ctypes.c_int

    def __call__(self, case: Case, form: Form, *, order: str = "forward", seed: int = 0) -> Selection:
        """Run the kernel.

        Args:
            case: the arguments.
            form: form of the kernel.
            order: one of `ORDERS`, in which waiting threads continue.
            seed: seed of the shuffled order.
        """
        images, nodes, heads = case.queries[0].shape[:3]
        queries, keys = list(case.queries), list(case.keys)
        strides = {array.strides[1] // array.itemsize for array in (*queries, *keys)}
        (stride,) = strides
        tokens = np.ascontiguousarray(case.tokens)
        start = np.ascontiguousarray(case.start)
        regions = case.top_k * (1 if case.mean else heads)
        # Values that no valid result contains.
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
        done = self._call(
            12 if form.name.startswith("64s12") else form.nodes,
            form.head_width,
            images,
            form.blocks,
            form.threads(nodes),
            ORDERS.index(order),
            seed,
            *(ctypes.byref(argument) for argument in (inputs, sizes, outputs)),
        )
        if not done:
            raise ValueError(f"the kernel has no form {form.name}")
        return Selection(out, index, values)


def gathered(tokens: NDArray[Any], index: NDArray[np.int64], prefix: int) -> NDArray[Any]:
    """The tokens before the patches, followed by the tokens of these patches."""
    prefix_tokens = np.broadcast_to(np.arange(prefix), (len(index), prefix))
    rows = np.concatenate([prefix_tokens, index + prefix], axis=1)
    return np.take_along_axis(tokens, rows[..., None], axis=1)
