"""From scores to probabilities, in NumPy: the one place that says how a finding's probability comes about."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lrclr.errors import NonFiniteError, UsageError

if TYPE_CHECKING:
    from lrclr.findings import FindingSet

__all__ = ["combined_score", "finding_scores", "global_score", "probabilities"]

Floats = NDArray[np.float32]


def global_score(image_embedding: Floats, text_embedding: Floats) -> Floats:
    """Cosines ``[B, P]`` of unit vectors ``[B, D]`` and ``[P, D]``."""
    # Not by `@`: threads of NumPy's BLAS spin for some 25 ms after a product, and take the cores from the next graph,
    # in this process and in others of the same machine (measured: half of a server's speed).
    scores: Floats = np.einsum("bd,pd->bp", image_embedding, text_embedding)
    return scores


def combined_score(global_: Floats, local: Floats, alpha: float) -> Floats:
    """``(1 - alpha) * global + alpha * local``, all ``[B, P]``.

    Raises:
        UsageError: `alpha` is not in [0, 1].
    """
    if not 0.0 <= alpha <= 1.0:
        raise UsageError(f"alpha is {alpha}", fix="It must be between 0 and 1.")
    # An untrained head's score must not reach the result even as NaN times zero.
    return global_.copy() if alpha == 0.0 else (1.0 - alpha) * global_ + alpha * local


def finding_scores(score: Floats, findings: FindingSet) -> tuple[Floats, Floats]:
    """Scores ``[B, P]`` of all prompts to those of each finding's positive and negative prompts, ``[B, F]`` each.

    A finding with several prompts of a sign gets their mean.
    """
    positive = np.stack([score[:, index].mean(axis=1) for index in findings.positive_index], axis=1)
    negative = np.stack([score[:, index].mean(axis=1) for index in findings.negative_index], axis=1)
    return positive, negative


def probabilities(score: Floats, findings: FindingSet, scale: float = 1.0) -> Floats:
    """Softmax over each finding's positive and negative score, as in CheXzero.

    Args:
        score: ``[B, P]``, one column for each of `findings`' prompts.
        findings: F findings.
        scale: factor on the scores before the softmax.

    Returns:
        ``[B, F]``, the positive prompts' share.

    Raises:
        NonFiniteError: a score is NaN or infinite.
    """
    if not np.isfinite(score).all():
        raise NonFiniteError("a score is not finite", fix="Check the image and run `lrclr verify` on the bundle.")
    positive, negative = finding_scores(score, findings)
    # exp(-log(1 + exp(-x))) neither overflows nor loses small probabilities.
    result: Floats = np.exp(-np.logaddexp(0.0, -scale * (positive - negative))).astype(np.float32)
    return result
