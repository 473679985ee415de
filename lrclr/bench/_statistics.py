"""Statistics of latencies: quantiles, intervals by a bootstrap over rounds, and differences between windows.

Calls of one round follow each other within milliseconds and share disturbances of the machine: they are not
independent. Rounds lie apart. Every interval here therefore draws whole rounds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from lrclr.reports import DefinedEstimate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

QUANTILES: Final = {"p50": 0.50, "p90": 0.90, "p95": 0.95, "p99": 0.99, "max": 1.0}
RESAMPLES: Final = 2000
LEAST_ROUNDS: Final = 3
"""Fewer rounds have no interval."""
CALM_WINDOWS: Final = 3
"""Warm-up windows in a row that must agree."""
_ENDS: Final = (2.5, 97.5)


def quantiles(samples: Sequence[float] | NDArray[np.float64]) -> dict[str, float]:
    """`QUANTILES` by nearest rank: each is a measured sample. Of fewer than 100 samples the p99 is the largest.

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
        done: items of each round.
        seconds: duration of each round.
    """
    amount, time = np.asarray(done, np.float64), np.asarray(seconds, np.float64)
    value = float(amount.sum() / time.sum())
    draws = _draws(len(amount), 0)
    if draws is None:
        return DefinedEstimate(value)
    return _with_interval(value, amount[draws].sum(1) / time[draws].sum(1))


def median_interval(rounds: Sequence[float]) -> DefinedEstimate:
    """The median over rounds, with its interval."""
    values = np.asarray(rounds, np.float64)
    value = float(np.median(values))
    draws = _draws(len(values), 0)
    return DefinedEstimate(value) if draws is None else _with_interval(value, np.median(values[draws], axis=1))


def ratio_of_medians(over: Sequence[float], under: Sequence[float]) -> DefinedEstimate:
    """Ratio of the medians of two runs, whose rounds are drawn independently."""
    first, second = np.asarray(over, np.float64), np.asarray(under, np.float64)
    value = float(np.median(first) / np.median(second))
    draws = (_draws(len(first), 1), _draws(len(second), 2))
    if draws[0] is None or draws[1] is None:
        return DefinedEstimate(value)
    return _with_interval(value, np.median(first[draws[0]], axis=1) / np.median(second[draws[1]], axis=1))


def paired_ratio(over: Sequence[float], under: Sequence[float]) -> DefinedEstimate:
    """Median of the ratios round by round, of two cases of one run."""
    return median_interval(np.asarray(over, np.float64) / np.asarray(under, np.float64))  # type: ignore[arg-type]


def difference(windows: Sequence[float]) -> float:
    """Range of the last `CALM_WINDOWS` windows over their mean; infinite for fewer windows."""
    last = windows[-CALM_WINDOWS:]
    return (max(last) - min(last)) / float(np.mean(last)) if len(last) == CALM_WINDOWS else float("inf")


def spread(rounds: Sequence[float]) -> float:
    """Interquartile range over rounds, relative to their median."""
    low, middle, high = np.percentile(np.asarray(rounds, np.float64), (25, 50, 75))
    return float((high - low) / middle)


def _draws(rounds: int, seed: int) -> NDArray[np.int64] | None:
    if rounds < LEAST_ROUNDS:
        return None
    return np.random.default_rng([seed, rounds]).integers(0, rounds, (RESAMPLES, rounds))


def _with_interval(value: float, resampled: NDArray[np.float64]) -> DefinedEstimate:
    low, high = np.percentile(resampled, _ENDS)
    return DefinedEstimate(value, float(low), float(high))
