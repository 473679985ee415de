"""A matplotlib figure as SVG inside a page.

Text stays text, in the font of the page. Colours become CSS variables of the page, for light and dark themes.
The same numbers give the same bytes.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from typing import TYPE_CHECKING, Any, Final

from lrclr._markdown import clean
from lrclr.errors import MissingExtraError
from lrclr.reports._estimate import significant

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from markupsafe import Markup
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

INK, DIM, RULE, GRID, EDGE = "#15202b", "#55636f", "#dbe2e8", "#e6ebef", "#9aa6b1"
PAPER, BAD = "#ffffff", "#b3261e"
# Palette of Okabe and Ito, for people with colour blindness. Vermilion is region attention and sky blue is importance,
# as in the heat maps.
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
# The style sheet of a figure would apply to the whole page. Its metadata is not needed.
_NEEDLESS = re.compile(
    r"<\?xml.*?\?>|<!DOCTYPE.*?>|<metadata>.*?</metadata>|<!--.*?-->|<defs>\s*<style.*?</style>\s*</defs>", re.DOTALL
)
_COLOUR = re.compile(r'(?<=[ "])(fill|stroke): (#[0-9a-f]{6})\b')


def series_style(number: int) -> dict[str, Any]:
    """Colour and marker of the series with that number, for `Axes.plot`."""
    return {"color": _SERIES[number % len(_SERIES)], "marker": _MARKERS[number % len(_MARKERS)]}


def with_room(values: Sequence[float]) -> tuple[float, float]:
    """Limits of a logarithmic axis, with some space at both ends."""
    low, high = min(values), max(values)
    room = max((high / low) ** 0.06, 1.04)
    return low / room, high * room


def number_axis(axis: Axis, low: float, high: float) -> None:
    """Give a logarithmic axis three to nine ticks with plain digits."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

    inside: list[float] = []
    for steps in ((1,), (1, 3), (1, 2, 5)):
        ticks = LogLocator(subs=steps, numticks=20).tick_values(low, high)
        inside = [value for value in ticks if low <= value <= high]
        if len(inside) >= 3:
            break
    else:
        # Less than a factor of ten: steps of equal size.
        inside = [value for value in MaxNLocator(6).tick_values(low, high) if low <= value <= high]
    axis.set_major_locator(FixedLocator(inside[:: math.ceil(len(inside) / 9)]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: significant(value)))


def figure_svg(size: tuple[int, int], name: str, label: str, draw: Callable[[Figure], None]) -> Markup:
    """Draw a figure as an ``<svg>`` element.

    Args:
        size: width and height in pixels.
        name: unique name in the page, of letters, digits and hyphens.
        label: description for screen readers.
        draw: called with a figure of `size`. It must only use the colours of this module.

    Raises:
        MissingExtraError: matplotlib is not installed.
        ValueError: `draw` used another colour, which has no CSS variable.
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
        # The fonts of the reader draw a glyph that matplotlib's font lacks.
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
    # Angle brackets in texts are escaped, so that these patterns match tags only.
    text = re.sub(r'<g id="[^"]*"/>', "", text)
    text = re.sub(r'<g id="[^"]*">', "<g>", text)
    text = re.sub(r'(<text style="[^"]*)font-family:[^;"]*;', r"\1", text)
    text = re.sub(r'(<text [^>]*?) transform="rotate\(-0 [^"]*"', r"\1", text)
    text = re.sub(r"\s*\n\s*", "\n", text)
    # Only in tags, since a text may contain the name of a colour.
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
        raise ValueError(f"the page has no variable for the colour {match[2]}")
    return f"{match[1]}: var(--{variable})"
