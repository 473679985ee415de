"""Distances between the outputs of an engine and those of PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
_TINY = 1e-30
NO_SPREAD = 1e-6
"""Vectors with a smaller spread count as equal."""


def cosine(actual: Array, expected: Array) -> float:
    """Smallest cosine between rows of ``[X, D]`` with the same number."""
    a, b = actual.astype(np.float64), expected.astype(np.float64)
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return float(((a * b).sum(-1) / np.maximum(norms, _TINY)).min())


def centred_cosine(actual: Array, expected: Array) -> float:
    """As `cosine`, after the mean over the rows is subtracted on each side.

    The plain cosine is high for any two of embeddings that are nearly equal.
    """
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
    """Loss of importance by the patches that an engine selects, against the best patches.

    Args:
        index: ``[B, R]``, patches that the engine selected, in G groups of k.
        rollout: ``[B, G, N-1]``, importance of every patch by PyTorch.

    Returns:
        The largest loss of a patch against PyTorch's patch of the same rank, relative to the most important patch of
        the group; and the share of patches that are equal to PyTorch's. A patch that is selected twice within a group,
        or that does not exist, is a loss of 1.
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
