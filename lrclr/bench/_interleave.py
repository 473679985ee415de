"""Interleaved rounds, so that neither drift of the machine's speed nor the order of candidates matters."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

Work = Callable[[], object]
_Item = TypeVar("_Item", bound=Hashable)


def shuffled_rounds(items: Sequence[_Item], rounds: int, *, seed: int = 0) -> Iterator[tuple[int, _Item]]:
    """Every item once a round, with the number of the round, in another order each round."""
    generator = np.random.default_rng(seed)
    for number in range(rounds):
        for place in generator.permutation(len(items)):
            yield number, items[place]


@dataclass(frozen=True)
class Timings:
    """Seconds of each round by candidate."""

    seconds: dict[str, list[float]]

    def median_ms(self, name: str) -> float:
        """Median over the rounds, in milliseconds."""
        return float(np.median(self.seconds[name]) * 1e3)

    def ratio(self, baseline: str, name: str) -> tuple[float, float, float]:
        """Speed relative to `baseline`, round by round: median, first and third quartile."""
        ratios = np.array(self.seconds[baseline]) / np.array(self.seconds[name])
        middle, low, high = (float(x) for x in np.percentile(ratios, (50, 25, 75)))
        return middle, low, high

    def to_dict(self) -> dict[str, Any]:
        """Raw samples in JSON's types."""
        return {name: [round(value, 6) for value in values] for name, values in self.seconds.items()}


def interleaved(
    candidates: Mapping[str, Work], *, rounds: int, warmup: int = 3, clock: Callable[[], float] = time.perf_counter
) -> Timings:
    """Time every candidate once a round, `rounds` times after `warmup` rounds that do not count.

    For comparisons in scripts; `bench` measures windows of many calls in the same way.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for number, name in shuffled_rounds(list(candidates), warmup + rounds):
        begin = clock()
        candidates[name]()
        elapsed = clock() - begin
        if number >= warmup:
            seconds[name].append(elapsed)
    return Timings(seconds)
