"""Reports of `lrclr bench` and `lrclr evaluate`: Jinja2 templates and matplotlib charts in the same style.

A page needs nothing else: no network, no script, every picture inside it. The same input gives the same bytes.
"""

from __future__ import annotations

from lrclr.reports._figure import (
    BAD,
    BLUE,
    DIM,
    EDGE,
    GRID,
    INK,
    RULE,
    SKY,
    VERMILION,
    figure_svg,
    fixed_svg,
    series_style,
)
from lrclr.reports._render import clean, percent, render, signed, significant

__all__ = [
    "BAD",
    "BLUE",
    "DIM",
    "EDGE",
    "GRID",
    "INK",
    "RULE",
    "SKY",
    "VERMILION",
    "clean",
    "figure_svg",
    "fixed_svg",
    "percent",
    "render",
    "series_style",
    "signed",
    "significant",
]
