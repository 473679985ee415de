"""Statistics of samples: quantiles, intervals by the bootstrap over rounds, and whether a steady state was reached.

Calls within a round follow each other within milliseconds and are disturbed by the same events, so they are not
independent. Rounds are further apart in time. The bootstrap therefore draws whole rounds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from lrclr.reports import DefinedEstimate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = [
    "QUANTILES",
    "median_interval",
    "paired_ratio",
    "quantiles",
    "ratio_of_medians",
    "settled",
    "spread",
    "throughput_interval",
]

QUANTILES: Final = {"p50": 0.50, "p90": 0.90, "p95": 0.95, "p99": 0.99, "max": 1.0}
RESAMPLES: Final = 2000
LEAST_ROUNDS: Final = 3
"""Fewer rounds have no interval."""
_ENDS: Final = (2.5, 97.5)


def quantiles(samples: Sequence[float] | NDArray[np.float64]) -> dict[str, float]:
    """`QUANTILES` by nearest rank: the smallest sample that is not below the given share of all samples.

    With fewer than 100 samples the p99 is the largest.

    Raises:
        ValueError: `samples` is empty.
    """
    if len(samples) == 0:
        raise ValueError("no samples are given")
    values = np.quantile(np.asarray(samples, np.float64), list(QUANTILES.values()), method="inverted_cdf")
    return {name: float(value) for name, value in zip(QUANTILES, values, strict=True)}


def throughput_interval(done: Sequence[float], seconds: Sequence[float]) -> DefinedEstimate:
    """Throughput over all rounds, with its interval.

    Args:
        done: number of items of each round.
        seconds: time of each round.
    """
    amount, time = np.asarray(done, np.float64), np.asarray(seconds, np.float64)
    value = float(amount.sum() / time.sum())
    draws = _draws(len(amount), 0)
    if draws is None:
        return DefinedEstimate(value)
    return _with_interval(value, amount[draws].sum(1) / time[draws].sum(1))


def median_interval(rounds: Sequence[float]) -> DefinedEstimate:
    """Median of a figure over the rounds, with its interval."""
    values = np.asarray(rounds, np.float64)
    value = float(np.median(values))
    draws = _draws(len(values), 0)
    return DefinedEstimate(value) if draws is None else _with_interval(value, np.median(values[draws], axis=1))


def ratio_of_medians(over: Sequence[float], under: Sequence[float]) -> DefinedEstimate:
    """Median of the rounds of one run over that of another. The bootstrap draws from the runs independently."""
    first, second = np.asarray(over, np.float64), np.asarray(under, np.float64)
    value = float(np.median(first) / np.median(second))
    draws = (_draws(len(first), 1), _draws(len(second), 2))
    if draws[0] is None or draws[1] is None:
        return DefinedEstimate(value)
    return _with_interval(value, np.median(first[draws[0]], axis=1) / np.median(second[draws[1]], axis=1))


def paired_ratio(over: Sequence[float], under: Sequence[float]) -> DefinedEstimate:
    """Median of the ratios by round, for two cases of the same run."""
    return median_interval(np.asarray(over, np.float64) / np.asarray(under, np.float64))  # type: ignore[arg-type]


def settled(windows: Sequence[float], *, count: int, tolerance: float) -> bool:
    """Whether the range of the last `count` windows is within `tolerance` of their mean."""
    last = windows[-count:]
    return len(last) == count and max(last) - min(last) <= tolerance * float(np.mean(last))


def spread(rounds: Sequence[float]) -> float:
    """Interquartile range of a figure over the rounds, relative to its median."""
    low, middle, high = np.percentile(np.asarray(rounds, np.float64), (25, 50, 75))
    return float((high - low) / middle)


def _draws(rounds: int, seed: int) -> NDArray[np.int64] | None:
    if rounds < LEAST_ROUNDS:
        return None
    return np.random.default_rng([seed, rounds]).integers(0, rounds, (RESAMPLES, rounds))


def _with_interval(value: float, resampled: NDArray[np.float64]) -> DefinedEstimate:
    low, high = np.percentile(resampled, _ENDS)
    return DefinedEstimate(value, float(low), float(high))
