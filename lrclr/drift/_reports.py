"""A comparison as one HTML page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lrclr._version import __version__
from lrclr.input_checks import SENTENCES
from lrclr.reports import BLUE, INK, VERMILION, clean, figure_svg, render

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.figure import Figure

    from lrclr.drift._compare import DriftReport, FindingDrift

_LONGEST = 30


def html(report: DriftReport) -> str:
    """One page with every table and a chart. The same comparison gives the same bytes.

    Raises:
        MissingExtraError: Jinja2 or matplotlib is not installed.
    """
    sections = [("findings", "Probabilities of findings"), ("rates", "Warnings"), ("embeddings", "Embeddings")]
    return render(
        "drift.html",
        title=f"Drift of {report.bundle[:12]}",
        version=__version__,
        sections=[*sections, ("method", "Method")],
        report=report,
        remarks=[f"{text[0].upper()}{text[1:]}." for text in report.notes],
        sentences=SENTENCES,
        chart=_distributions(report.findings),
    )


def _distributions(findings: tuple[FindingDrift, ...]) -> Markup:
    """By finding: the middle 90 % and 50 % and the median of the probabilities of both collections."""
    height = 44 + 34 * len(findings)

    def draw(figure: Figure) -> None:
        axes = figure.add_axes((190 / 640, 36 / height, 430 / 640, (height - 44) / height))
        for row, finding in enumerate(findings):
            for offset, values, colour in ((-0.16, finding.reference, BLUE), (0.16, finding.current, VERMILION)):
                axes.plot([values[0], values[4]], [row + offset] * 2, color=colour, linewidth=1.5)
                axes.plot([values[1], values[3]], [row + offset] * 2, color=colour, linewidth=5)
                axes.plot(values[2], row + offset, "o", color=INK, markersize=4)
        names = [name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…" for name in map(_name, findings)]
        axes.set(xlim=(0, 1), ylim=(len(findings) - 0.5, -0.5), yticks=range(len(findings)), yticklabels=names)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("Probability")

    return figure_svg((640, height), "distributions", "Probabilities of the reference and of current images", draw)


def _name(finding: FindingDrift) -> str:
    return clean(finding.name)
