"""Axes and marks as SVG, without a drawing library. Colours are the page's variables: they suit light and dark."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from lrclr._markup import Markup, tag
from lrclr.bench._view import three

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

__all__ = ["COLOURS", "Axis", "colour", "grid", "line", "mark", "svg", "text"]

COLOURS: Final = 6
_SHAPES: Final = ("circle", "square", "diamond", "triangle", "cross", "ring")


@dataclass(frozen=True)
class Axis:
    """From values to pixels.

    Attributes:
        low, high: values at the ends.
        begin, end: pixels there.
        log: whether equal ratios take equal room.
    """

    low: float
    high: float
    begin: float
    end: float
    log: bool = True

    @classmethod
    def over(cls, values: Iterable[float], begin: float, end: float, *, log: bool = True) -> Axis:
        """With room for these values and a little more."""
        known = list(values)
        low, high = min(known), max(known)
        if log:
            room = max((high / low) ** 0.06, 1.04)
            return cls(low / room, high * room, begin, end)
        return cls(0.0, high * 1.08 or 1.0, begin, end, log=False)

    def at(self, value: float) -> float:
        """The pixel of a value, kept within the ends."""
        if self.log:
            share = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.begin + min(max(share, 0.0), 1.0) * (self.end - self.begin)

    def ticks(self) -> list[float]:
        """Round values within, three to eight of them."""
        if not self.log:
            return _even(self.low, self.high)
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
            found = [step * 10.0**decade for decade in decades for step in steps]
            inside = [value for value in found if self.low <= value <= self.high]
            if len(inside) >= 3:
                return inside if len(inside) <= 8 else inside[:: math.ceil(len(inside) / 8)]
        # Less than a factor of two from end to end: even steps are the round ones.
        return _even(self.low, self.high)


def svg(width: int, height: int, label: str, *parts: str) -> Markup:
    """A picture of that many pixels, which shrinks with the window."""
    size = {"viewBox": f"0 0 {width} {height}", "width": str(width), "height": str(height)}
    return tag("svg", *parts, role="img", aria_label=label, **size)


def grid(across: Axis, up: Axis, *, x_title: str, y_title: str = "") -> Iterator[Markup]:
    """Lines and numbers of two axes; without numbers at the left if there is no title for them."""
    for value in across.ticks():
        x = across.at(value)
        yield line([(x, up.begin), (x, up.end)], "grid")
        yield text(x, up.begin + 15, three(value), anchor="middle")
    for value in up.ticks() if y_title else ():
        y = up.at(value)
        yield line([(across.begin, y), (across.end, y)], "grid")
        yield text(across.begin - 6, y + 4, three(value), anchor="end")
    yield line([(across.begin, up.begin), (across.end, up.begin)], "axis")
    yield text(across.end, up.begin + 31, x_title, anchor="end")
    if y_title:
        yield text(max(2.0, across.begin - 44), up.end - 9, y_title)


def line(points: Sequence[tuple[float, float]], kind: str, stroke: str = "") -> Markup:
    """Through points."""
    style = {"style": f"stroke:{stroke}"} if stroke else {}
    return tag("polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in points), class_=kind, fill="none", **style)


def mark(x: float, y: float, number: int, size: float = 4.5) -> Markup:
    """A sign in the colour and shape of the target of that number."""
    ink, shape = colour(number), _SHAPES[number % len(_SHAPES)]
    if shape in {"circle", "ring"}:
        fill = ink if shape == "circle" else "var(--paper)"
        return tag(
            "circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=f"{size:.1f}", style=f"fill:{fill};stroke:{ink};stroke-width:1.5"
        )
    reach = size * 1.15
    corners = {
        "square": ((-size, -size), (size, -size), (size, size), (-size, size)),
        "diamond": ((0, -reach), (reach, 0), (0, reach), (-reach, 0)),
        "triangle": ((0, -reach), (reach, size), (-reach, size)),
        "cross": ((-size, -size), (0, -1.2), (size, -size), (1.2, 0), (size, size), (0, 1.2), (-size, size), (-1.2, 0)),
    }[shape]
    points = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)
    return tag("polygon", points=points, style=f"fill:{ink}")


def text(x: float, y: float, content: str, *, anchor: str = "start", kind: str = "") -> Markup:
    """Words with their base line at `y`."""
    kinds = {"class_": kind} if kind else {}
    return tag("text", content, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor, **kinds)


def colour(number: int) -> str:
    """Of the target of that number."""
    return f"var(--s{number % COLOURS})"


def _even(low: float, high: float) -> list[float]:
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw)
    first = math.ceil(low / step)
    return [round(step * place, 10) for place in range(first, math.floor(high / step) + 1)]
