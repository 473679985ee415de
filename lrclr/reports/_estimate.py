"""Estimates with intervals, and their form in reports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

NONE: Final = "–"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95 % interval.

    Attributes:
        value: the figure; ``None`` if it is not defined.
        low, high: ends of the interval; ``None`` if the data do not allow one.
    """

    value: float | None
    low: float | None = None
    high: float | None = None

    def contains(self, value: float) -> bool:
        """Whether there is an interval and `value` lies in it."""
        return self.low is not None and self.high is not None and self.low <= value <= self.high


@dataclass(frozen=True, slots=True)
class DefinedEstimate(Estimate):
    """An estimate whose value is always defined."""

    value: float


def significant(value: float | None, digits: int = 3) -> str:
    """A number with three significant digits and without an exponent; a dash for None."""
    if value is None:
        return NONE
    shown = f"{value:.{digits}g}"
    return f"{value:,.0f}" if "e+" in shown or abs(value) >= 1000 else f"{Decimal(shown):f}"


def fixed(value: float | None, digits: int = 3) -> str:
    """A number with that many decimals; a dash for None."""
    return NONE if value is None else f"{value:.{digits}f}"


def p_value(p: float | None) -> str:
    """A p-value with three decimals, never as 0; a dash for None."""
    return "< 0.001" if p is not None and p < 0.001 else fixed(p)


def percent(value: float | None, digits: int = 0) -> str:
    """A share as a percentage; a dash for None."""
    return NONE if value is None else f"{value:.{digits}%}"


def signed(value: float | None, digits: int = 3) -> str:
    """A difference with its sign; a dash for None."""
    return NONE if value is None else f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def span(estimate: Estimate, show: Callable[[float], str] = significant, between: str = "–") -> str:
    """Both ends of the interval, each written by `show`; "" without an interval."""
    if estimate.low is None or estimate.high is None:
        return ""
    return f"{show(estimate.low)}{between}{show(estimate.high)}"


def spanned(estimate: Estimate, show: Callable[[float], str] = significant) -> str:
    """The value with its interval in brackets, if there is one; a dash if the value is not defined."""
    if estimate.value is None:
        return NONE
    ends = span(estimate, show)
    return show(estimate.value) + (f" ({ends})" if ends else "")
