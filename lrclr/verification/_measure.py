"""Distances between what an engine answered and what PyTorch answered."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
_TINY = 1e-30
NO_SPREAD = 1e-6
"""Spread of vectors below which they count as all the same."""


def cosine(actual: Array, expected: Array) -> float:
    """Least cosine of two rows of ``[X, D]``."""
    a, b = actual.astype(np.float64), expected.astype(np.float64)
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return float(((a * b).sum(-1) / np.maximum(norms, _TINY)).min())


def centred_cosine(actual: Array, expected: Array) -> float:
    """Least cosine without each side's mean over the rows: embeddings that nearly coincide flatter a plain one."""
    a, b = actual.astype(np.float64), expected.astype(np.float64)
    return cosine(a - a.mean(0), b - b.mean(0))


def relative_error(actual: Array, expected: Array) -> float:
    """Largest absolute difference, relative to the largest expected value."""
    scale = max(float(np.abs(expected).max(initial=0.0)), _TINY)
    return absolute_error(actual, expected) / scale


def absolute_error(actual: Array, expected: Array) -> float:
    """Largest absolute difference."""
    return float(np.abs(actual.astype(np.float64) - expected.astype(np.float64)).max(initial=0.0))


def spread(embedding: Array) -> float:
    """Root mean square distance of rows ``[X, D]`` from their mean."""
    centred = embedding.astype(np.float64) - embedding.astype(np.float64).mean(0)
    return float(np.sqrt((centred**2).sum(-1).mean()))


def region_gap(index: Array, rollout: Array) -> tuple[float, float]:
    """How much importance an engine's picks lose against the best ones.

    Args:
        index: ``[B, R]``, the engine's picks, G groups of k.
        rollout: ``[B, G, N-1]``, PyTorch's importance of every patch.

    Returns:
        The largest loss of a pick against PyTorch's pick of the same rank, relative to the group's most important
        patch; and the share of picks that are PyTorch's. A patch picked twice within a group is a loss of 1, as is one
        that does not exist.
    """
    batch, groups, patches = rollout.shape
    picks = index.reshape(batch, groups, -1)
    if picks.min() < 0 or picks.max() >= patches:
        return 1.0, 0.0
    order = np.argsort(-rollout, axis=-1, kind="stable")[..., : picks.shape[-1]]
    best = np.take_along_axis(rollout, order, axis=-1)
    got = np.take_along_axis(rollout, picks, axis=-1)
    loss = np.maximum(best - got, 0.0) / np.maximum(best[..., :1], _TINY)
    in_order = np.sort(picks, axis=-1)
    twice = bool((in_order[..., 1:] == in_order[..., :-1]).any())
    return (1.0 if twice else float(loss.max())), float((picks == order).mean())
