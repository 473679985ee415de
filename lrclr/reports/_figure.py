"""A matplotlib figure as SVG inside a page.

Text stays text in the page's font. Colours become the page's CSS variables, so that a chart suits light and dark.
The same numbers give the same bytes.
"""

from __future__ import annotations

import io
import re
import warnings
from typing import TYPE_CHECKING, Any, Final

from lrclr.errors import MissingExtraError
from lrclr.reports._render import clean

if TYPE_CHECKING:
    from collections.abc import Callable

    from markupsafe import Markup
    from matplotlib.figure import Figure

__all__ = [
    "BAD",
    "BLUE",
    "DIM",
    "EDGE",
    "GRID",
    "INK",
    "PAPER",
    "RULE",
    "SKY",
    "VERMILION",
    "figure_svg",
    "series_style",
]

INK, DIM, RULE, GRID, EDGE = "#15202b", "#55636f", "#dbe2e8", "#e6ebef", "#9aa6b1"
PAPER, BAD = "#ffffff", "#b3261e"
# Okabe and Ito's palette, which common kinds of colour blindness can tell apart. Vermilion is region attention and sky
# blue is importance, as in the heat maps.
BLUE, VERMILION, SKY = "#0072b2", "#d55e00", "#56b4e9"
_SERIES: Final = (BLUE, VERMILION, "#008060", "#a04a86", "#7a6a00", "#3d4f60")
_MARKERS: Final = ("o", "s", "D", "^", "X", "P")
_VARIABLES: Final = {
    INK: "ink",
    DIM: "dim",
    RULE: "rule",
    GRID: "grid",
    EDGE: "edge",
    PAPER: "paper",
    BAD: "bad",
    SKY: "sky",
    **{colour: f"s{place}" for place, colour in enumerate(_SERIES)},
}
_STYLE: Final[dict[Any, Any]] = {
    "axes.axisbelow": True,
    "axes.edgecolor": EDGE,
    "axes.grid": True,
    "axes.labelcolor": DIM,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": DIM,
    "font.size": 11,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.labelcolor": DIM,
    "svg.fonttype": "none",
    "svg.image_inline": True,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": EDGE,
    "xtick.labelcolor": DIM,
    "ytick.color": EDGE,
    "ytick.labelcolor": DIM,
}
# The figure's own style sheet would apply to the whole page, and its metadata are not for the reader.
_NEEDLESS = re.compile(
    r"<\?xml.*?\?>|<!DOCTYPE.*?>|<metadata>.*?</metadata>|<!--.*?-->|<defs>\s*<style.*?</style>\s*</defs>", re.DOTALL
)
_COLOUR = re.compile(r'(?<=[ "])(fill|stroke): (#[0-9a-f]{6})\b')


def series_style(number: int) -> dict[str, Any]:
    """Colour and marker of the series of that number, for `Axes.plot`. Series differ in shape as well as in colour."""
    return {"color": _SERIES[number % len(_SERIES)], "marker": _MARKERS[number % len(_MARKERS)]}


def figure_svg(size: tuple[int, int], name: str, label: str, draw: Callable[[Figure], None]) -> Markup:
    """What `draw` draws, as an ``<svg>`` element.

    Args:
        size: width and height in pixels.
        name: of the figure, which no other in the page has; letters, digits and hyphens.
        label: what it shows, for screen readers.
        draw: gets a figure of `size`; it uses the colours of this module only.

    Raises:
        MissingExtraError: matplotlib is not installed.
        ValueError: `draw` used another colour, which would not follow the page's.
    """
    try:
        import matplotlib as mpl
        from markupsafe import Markup, escape
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("matplotlib", "report", "drawing a chart") from None

    buffer = io.StringIO()
    with mpl.rc_context(), warnings.catch_warnings():
        # matplotlib measures a glyph that its font lacks badly; the reader's fonts draw it well.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE | {"svg.hashsalt": name})
        figure = Figure(figsize=(size[0] / 72, size[1] / 72), dpi=72, facecolor="none")
        FigureCanvasSVG(figure)
        draw(figure)
        for axes in figure.axes:
            axes.set_facecolor("none")
            axes.tick_params(which="both", length=3)
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, dpi=72)
    text = _NEEDLESS.sub("", buffer.getvalue())
    # Angle brackets in texts are escaped by now: what looks like a tag is one.
    text = re.sub(r'<g id="[^"]*"/>', "", text)
    text = re.sub(r'<g id="[^"]*">', "<g>", text)
    text = re.sub(r'(<text style="[^"]*)font-family:[^;"]*;', r"\1", text)
    text = re.sub(r'(<text [^>]*?) transform="rotate\(-0 [^"]*"', r"\1", text)
    text = re.sub(r"\s*\n\s*", "\n", text)
    # Only in tags: a text may read like a colour too.
    text = re.sub(r"<[^>]*>", lambda tag: _COLOUR.sub(_variable, tag[0]), text)
    head = (
        f'<svg class="{name}" viewBox="0 0 {size[0]} {size[1]}" width="{size[0]}" height="{size[1]}" role="img"'
        f' aria-label="{escape(clean(label))}">'
    )
    text = re.sub(r"<svg [^>]*>", lambda _: head, text, count=1).strip()
    return Markup(text)  # noqa: S704 - matplotlib escaped every text


def _variable(match: re.Match[str]) -> str:
    variable = _VARIABLES.get(match[2])
    if variable is None:
        raise ValueError(f"the colour {match[2]} is not one of the page's")
    return f"{match[1]}: var(--{variable})"
