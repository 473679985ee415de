"""Reports of `lrclr bench`, `evaluate` and `tune`: Jinja2 templates and matplotlib charts in the same style.

A page is complete: it loads nothing, has no scripts, and contains its images. The same input gives the same bytes.
"""

from __future__ import annotations

from lrclr._markdown import clean
from lrclr.reports._estimate import (
    NONE,
    DefinedEstimate,
    Estimate,
    fixed,
    p_value,
    percent,
    signed,
    significant,
    span,
    spanned,
)
from lrclr.reports._figure import (
    BAD,
    BLUE,
    DIM,
    EDGE,
    GRID,
    INK,
    PAPER,
    RULE,
    SKY,
    VERMILION,
    figure_svg,
    number_axis,
    series_style,
    with_room,
)
from lrclr.reports._folder import check_report_folder, save_report_files
from lrclr.reports._render import render

__all__ = [
    "BAD",
    "BLUE",
    "DIM",
    "EDGE",
    "GRID",
    "INK",
    "NONE",
    "PAPER",
    "RULE",
    "SKY",
    "VERMILION",
    "DefinedEstimate",
    "Estimate",
    "check_report_folder",
    "clean",
    "figure_svg",
    "fixed",
    "number_axis",
    "p_value",
    "percent",
    "render",
    "save_report_files",
    "series_style",
    "signed",
    "significant",
    "span",
    "spanned",
    "with_room",
]
