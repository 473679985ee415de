"""What comes into each linear layer, and the scale for it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_HIGHEST = 127
_ROWS = 1024  # kept of a layer's input; the largest value of each channel is that of all rows
_CLIPS = 41
_CACHED = 1 << 15  # numbers


class Inputs:
    """What a layer was given: ``largest [C]`` over all rows, and some of the rows."""

    def __init__(self) -> None:
        self._largest: Tensor | None = None
        self._rows: list[Tensor] = []

    def add(self, x: Tensor) -> None:
        rows = x.detach().reshape(-1, x.shape[-1])
        largest = rows.abs().amax(0)
        self._largest = largest if self._largest is None else torch.maximum(self._largest, largest)
        self._rows.append(rows[:: max(1, len(rows) // _ROWS)][:_ROWS].clone())
        if len(self._rows) > 8:
            self._rows = [self.rows]

    @property
    def largest(self) -> Tensor:
        if self._largest is None:
            raise ValueError("nothing came in")
        return self._largest

    @property
    def rows(self) -> Tensor:
        """At most `_ROWS` of them, from first to last."""
        rows = torch.cat(self._rows)
        return rows[torch.linspace(0, len(rows) - 1, min(len(rows), _ROWS)).long()]


@contextlib.contextmanager
def watched(layers: Mapping[str, nn.Linear]) -> Iterator[dict[str, Inputs]]:
    """Keep what comes into each of `layers` meanwhile."""
    seen = {name: Inputs() for name in layers}

    def hook(name: str) -> Any:
        return lambda _module, inputs: seen[name].add(inputs[0])

    handles = [layer.register_forward_pre_hook(hook(name)) for name, layer in layers.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class Range:
    """Attributes: scale of the input; factors ``[C]`` that it is divided by first, None where it is taken as it is."""

    scale: float
    factors: Tensor | None


def range_of(inputs: Inputs, layers: list[nn.Linear], *, even_out: bool) -> Range:
    """The scale with the least squared error, over how much of the largest values is cut off.

    Args:
        inputs: inputs of the layers.
        layers: layers that share these inputs.
        even_out: whether channels may be divided by factors of their own, which evens out those that are far larger
            than the rest and leaves the weights to make up for it (SmoothQuant, Xiao et al., 2023, strength 0.5).
    """
    factors = None
    largest, rows = inputs.largest, inputs.rows
    if even_out:
        of_weights = torch.stack([layer.weight.detach().abs().amax(0) for layer in layers]).amax(0)
        factors = (largest.clamp_min(1e-5) / of_weights.clamp_min(1e-5)).sqrt()
        largest, rows = largest / factors, rows / factors
    top = float(largest.max())
    if top == 0:
        return Range(1.0, factors)
    scales = [clip * top / _HIGHEST for clip in torch.linspace(0.3, 1.0, _CLIPS).tolist()]
    errors = torch.zeros(_CLIPS, dtype=torch.float64)
    # Part by part, each of which stays in the processor's cache for all scales.
    for part in torch.split(rows, max(1, _CACHED // rows.shape[1])):
        for place, scale in enumerate(scales):
            rounded = (part / scale).round_().clamp_(-_HIGHEST - 1, _HIGHEST).mul_(scale)
            errors[place] += rounded.sub_(part).square_().sum()
    chosen = scales[int(errors.argmin())]
    return Range(chosen, factors)
