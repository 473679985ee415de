"""Counters of the model `lrclr`, which Triton publishes with its own metrics."""

from __future__ import annotations

from typing import Any

import triton_python_backend_utils as pb_utils

__all__ = ["Metrics"]

_FAMILIES = {
    "lrclr_requests_total": "Requests to the model lrclr",
    "lrclr_images_total": "Images answered for",
    "lrclr_failures_total": "Requests refused or failed, by reason",
    "lrclr_prompt_cache_hits_total": "Prompts whose features were known",
    "lrclr_prompt_cache_misses_total": "Prompts that had to be encoded",
    "lrclr_decode_seconds_total": "Seconds spent reading and preprocessing images",
    "lrclr_encode_seconds_total": "Seconds spent waiting for the image encoder",
}


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
        self._counters: dict[tuple[str, str], Any] = {}

    def requests(self) -> None:
        """Count a request."""
        self._add("requests", 1)

    def images(self, count: int) -> None:
        """Count answered images."""
        self._add("images", count)

    def failed(self, reason: str) -> None:
        """Count a refused or failed request."""
        self._add("failures", 1, reason)

    def prompts(self, hits: int, misses: int) -> None:
        """Count prompts found in the cache, and prompts that were encoded."""
        self._add("prompt_cache_hits", hits)
        self._add("prompt_cache_misses", misses)

    def decoded(self, seconds: float) -> None:
        """Add time for reading and preprocessing."""
        self._add("decode_seconds", seconds)

    def encoded(self, seconds: float) -> None:
        """Add time for the image encoder."""
        self._add("encode_seconds", seconds)

    def _add(self, name: str, amount: float, reason: str = "") -> None:
        if amount == 0:
            return
        key = (name, reason)
        if key not in self._counters:
            family = self._families[f"lrclr_{name}_total"]
            self._counters[key] = family.Metric(labels={"model": self._model, **({"reason": reason} if reason else {})})
        self._counters[key].increment(amount)
