"""Beside the milliseconds: does a candidate compute what torch computes?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lrclr.verification import _measure

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmarks.peers.works import Array

# Far below what any precision costs, far above what another network, another pooling or another input gives.
LEAST_COSINE, LEAST_CENTRED, LARGEST_PROBABILITY_ERROR = 0.99, 0.9, 0.05

Quality = dict[str, float]


def quality(answers: Mapping[str, Array], reference: Mapping[str, Array], regions: Array | None) -> Quality:
    """Distances of what a candidate gave from the reference, by work.

    Args:
        answers: ``image``, ``text77``, ``text``, ``answer``, ``regions``: those that the candidate offers.
        reference: the same of torch eager in float32.
        regions: ``[B, R]`` of lrclr's network in torch; only its own candidates offer any.
    """
    found: Quality = {}
    for work in ("image", "text77", "text"):
        if work in answers and work in reference:
            mine, theirs = _unit(answers[work]), _unit(reference[work])
            found[f"{work}.cosine"] = _measure.cosine(mine, theirs)
            found[f"{work}.centred_cosine"] = _measure.centred_cosine(mine, theirs)
    if "answer" in answers and "answer" in reference:
        found["probability.error"] = _measure.absolute_error(answers["answer"], reference["answer"])
    if "regions" in answers and regions is not None:
        found["regions.equal"] = float((answers["regions"] == regions).mean())
    return found


def wrong(found: Mapping[str, float]) -> list[str]:
    """What is too far off to be a precision's loss; NaN always is."""
    limits = {"cosine": LEAST_COSINE, "centred_cosine": LEAST_CENTRED}
    faults = []
    for name, value in found.items():
        kind = name.partition(".")[2]
        if kind in limits and not value >= limits[kind]:
            faults.append(f"{name.replace('.', ' ').replace('_', ' ')} {value:.3f}")
        if kind == "error" and not value <= LARGEST_PROBABILITY_ERROR:
            faults.append(f"probabilities off by {value:.3f}")
    return faults


def _unit(rows: Array) -> Array:
    rows = rows.astype(np.float64)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-30))
