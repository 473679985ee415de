"""Counters of the model `lrclr`, which Triton publishes with its own metrics."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import triton_python_backend_utils as pb_utils

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_FAMILIES = {
    "lrclr_requests_total": "Requests to the model lrclr",
    "lrclr_images_total": "Images answered for",
    "lrclr_failures_total": "Requests refused or failed, by reason",
    "lrclr_prompt_cache_hits_total": "Prompts whose features were known",
    "lrclr_prompt_cache_misses_total": "Prompts that had to be encoded",
    "lrclr_decode_seconds_total": "Seconds spent reading and preprocessing images",
    "lrclr_encode_seconds_total": "Seconds spent waiting for the image encoder",
    "lrclr_warnings_total": "Images that an input check warned of, by its code",
    # A histogram. Triton 2.51 has no histograms for models in Python; counters with these names are read as one.
    "lrclr_probability_bucket": "Images by finding whose probability is at most the label le",
    "lrclr_probability_count": "Images by finding",
    "lrclr_probability_sum": "Sum of the probabilities by finding",
}
_BOUNDS: Final = np.linspace(0.1, 1.0, 10)
_FLUSH_SECONDS: Final = 1.0
_BOUND_LABELS: Final = (*(f"{bound:.1f}" for bound in _BOUNDS), "+Inf")


class Metrics:
    """Counters. The server adds up those of all instances, which are processes.

    Args:
        model: name of the model, which is a label of each counter.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        counter = pb_utils.MetricFamily.COUNTER
        self._families = {
            name: pb_utils.MetricFamily(name=name, description=text, kind=counter) for name, text in _FAMILIES.items()
        }
        self._counters: dict[tuple[str, ...], Any] = {}
        self._pending: defaultdict[tuple[str, str, str], float] = defaultdict(float)
        self._flushed = -math.inf

    def add(self, name: str, amount: float = 1, **labels: str) -> None:
        """Add to the counter of a family."""
        if amount == 0:
            return
        key = (name, *labels.values())
        if key not in self._counters:
            self._counters[key] = self._families[name].Metric(labels={"model": self._model, **labels})
        self._counters[key].increment(amount)

    def probabilities(self, findings: Sequence[str], probability: NDArray[np.float32]) -> None:
        """Add the answers of B images to the histograms of F findings.

        Args:
            findings: F names. They must be from the bundle, so that their number is bounded.
            probability: ``[B, F]``.
        """
        below = np.vstack([(probability <= bound).sum(axis=0) for bound in _BOUNDS])
        for place, finding in enumerate(findings):
            for bound, count in zip(_BOUND_LABELS, (*below[:, place].tolist(), len(probability)), strict=True):
                self._pending["lrclr_probability_bucket", finding, bound] += count
            self._pending["lrclr_probability_count", finding, ""] += len(probability)
            self._pending["lrclr_probability_sum", finding, ""] += float(probability[:, place].sum())

    def flush(self) -> None:
        """Give the histograms to the server if that was not done in the last second.

        A call of the server for each of 14 findings' buckets takes 3 ms, too long for every request.
        """
        now = time.monotonic()
        if not self._pending or now - self._flushed < _FLUSH_SECONDS:
            return
        self._flushed = now
        for (name, finding, bound), amount in self._pending.items():
            self.add(name, amount, finding=finding, **({"le": bound} if bound else {}))
        self._pending.clear()
