"""Figures in words, for :mod:`lrclr.evaluation._html`, beside the elements of :mod:`lrclr.reports.markup`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from lrclr.reports.markup import NONE, Markup, facts, join, notes, row, table, tag

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lrclr.evaluation._result import Estimate

__all__ = [
    "GUESS",
    "NONE",
    "Markup",
    "cell",
    "facts",
    "interval",
    "join",
    "model",
    "notes",
    "number",
    "row",
    "signed",
    "table",
    "tag",
]

GUESS: Final = "†"
_SHORT: Final = 12


def number(value: float | None, digits: int = 3) -> str:
    """A figure, or a dash where it is not defined."""
    return NONE if value is None else f"{value:.{digits}f}"


def interval(estimate: Estimate) -> str:
    """From where to where, if that is known."""
    return "" if estimate.low is None or estimate.high is None else f"{estimate.low:.3f}–{estimate.high:.3f}"


def cell(estimate: Estimate, *, guess: float | None = None) -> Markup:
    """A figure above its interval, marked if that holds what guessing gives."""
    between = interval(estimate)
    holds = guess is not None and estimate.low is not None and estimate.high is not None
    mark = GUESS if holds and estimate.low <= guess <= estimate.high else ""  # type: ignore[operator]
    return join([number(estimate.value), mark, tag("small", between) if between else ""])


def signed(estimate: Estimate, *, bold: bool) -> Markup:
    """A difference above its interval."""
    if estimate.value is None:
        return Markup(NONE)
    value = _signed(estimate.value)
    if estimate.low is None or estimate.high is None:
        return join([value])
    between = f"{_signed(estimate.low)} to {_signed(estimate.high)}"
    return join([tag("b", value) if bold else value, tag("small", between)])


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "\N{MINUS SIGN}")


def model(info: Mapping[str, Any]) -> Markup:
    """What a model is called: its kind and the first digits of its hash."""
    digest = str(info.get("sha256") or "")
    kind = str(info.get("kind") or "model").capitalize()
    return join([f"{kind} ", tag("code", digest[:_SHORT]) if digest else "in memory"])
