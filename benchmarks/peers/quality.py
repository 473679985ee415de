"""Whether a candidate computes what torch computes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lrclr.verification import absolute_error, centred_cosine, cosine

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmarks.peers.works import Array

# A precision loses far less; another network, another pooling or another input differs by far more.
LEAST_COSINE, LEAST_CENTRED, LARGEST_PROBABILITY_ERROR = 0.99, 0.9, 0.05

Quality = dict[str, float]


def quality(answers: Mapping[str, Array], reference: Mapping[str, Array]) -> Quality:
    """How far a candidate's answers are from the reference, by work.

    Args:
        answers: the candidate's, for the works that it offers.
        reference: torch eager's in float32, and the regions that lrclr's network selects in torch, for at least as many
            images.
    """
    found: Quality = {}
    for work in ("image", "text77", "text"):
        if work in answers and work in reference:
            mine, theirs = _unit(answers[work]), _unit(reference[work])
            found[f"{work}.cosine"] = cosine(mine, theirs)
            found[f"{work}.centred_cosine"] = centred_cosine(mine, theirs)
    for work in ("answer", "answer-new"):
        if work in answers and "answer" in reference:
            rows = reference["answer"][: len(answers[work])]
            error = absolute_error(answers[work], rows)
            found["probability.error"] = float(np.maximum(error, found.get("probability.error", 0.0)))  # keeps NaN
    if "regions" in answers and "regions" in reference:
        found["regions.equal"] = float((answers["regions"] == reference["regions"]).mean())
    return found


def wrong(found: Mapping[str, float]) -> list[str]:
    """The measures that no precision explains; NaN is one."""
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
