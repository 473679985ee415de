"""Charts of an evaluation's page, small enough for a telephone. Marks differ in shape and in colour."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

from lrclr.reports import BLUE, DIM, INK, PAPER, RULE, SKY, VERMILION, clean, figure_svg, fixed, span

if TYPE_CHECKING:
    from collections.abc import Sequence

    from markupsafe import Markup
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lrclr.evaluation._result import FindingQuality, Grounding, MeanQuality
    from lrclr.reports import Estimate

_LONGEST: Final = 46
_MARGIN: Final = 12
_MARKS: Final = (("o", INK, INK), ("s", BLUE, PAPER), ("D", VERMILION, PAPER))


def roc_curve(finding: FindingQuality, name: str) -> Markup:
    """ROC curve of a finding, with the point at its threshold.

    Args:
        finding: a finding with a ROC curve.
        name: unique name of the figure in the page; letters, digits and hyphens.
    """

    def draw(figure: Figure) -> None:
        axes = _square(figure, (32, 36, 168, 168))
        axes.plot([0, 1], [0, 1], color=DIM, linewidth=1, dashes=(3, 3))
        axes.plot(*zip(*finding.roc, strict=True), color=INK, linewidth=1.8, clip_on=False, solid_joinstyle="round")
        if finding.sensitivity.value is not None and finding.specificity.value is not None:
            point = ([1 - finding.specificity.value], [finding.sensitivity.value])
            axes.plot(*point, "o", color=PAPER, markeredgecolor=VERMILION, markeredgewidth=2, clip_on=False, zorder=3)
        interval = span(finding.auroc, fixed)
        axes.text(
            0.97, 0.17, f"AUROC {fixed(finding.auroc.value)}", ha="right", weight="bold", transform=axes.transAxes
        )
        axes.text(0.97, 0.06, interval, ha="right", color=DIM, fontsize=10, transform=axes.transAxes)
        axes.set_xlabel("False positive rate")
        axes.set_title("True positive rate", loc="left", fontsize=11, x=-0.15, pad=8)

    return figure_svg((210, 240), name, f"ROC curve of {finding.name}, AUROC {fixed(finding.auroc.value)}", draw)


def reliability_diagram(finding: FindingQuality, name: str) -> Markup:
    """Share of positives over mean probability by bin, with the number of images. Arguments as of `roc_curve`."""
    means, shares, counts = zip(*finding.reliability, strict=True)

    def draw(figure: Figure) -> None:
        axes = _square(figure, (32, 104, 168, 168))
        axes.plot([0, 1], [0, 1], color=DIM, linewidth=1, dashes=(3, 3))
        axes.plot(means, shares, "o-", color=INK, linewidth=1.2, markersize=4.5, clip_on=False)
        axes.set_title("Share with the finding", loc="left", fontsize=11, x=-0.15, pad=8)
        axes.tick_params(labelbottom=False)
        below = figure.add_axes((32 / 210, 36 / 306, 168 / 210, 40 / 306))
        below.bar(means, counts, width=0.045, color=SKY)
        below.set(xlim=(0, 1), ylim=(0, max(counts) * 1.05), yticks=[0, max(counts)], xticks=[0, 0.5, 1])
        below.set_xlabel("Mean probability")
        below.set_title("Images", loc="left", fontsize=11, x=0.01, pad=4)
        below.grid(visible=False)

    return figure_svg((210, 306), name, f"Reliability diagram of {finding.name}", draw)


def alpha_sweep(sweep: Sequence[tuple[float, float]], alpha: float, name: str) -> Markup:
    """Mean AUROC on validation over the weight of the local score, with the weight in effect."""

    def draw(figure: Figure) -> None:
        axes = figure.add_axes((48 / 460, 44 / 250, 396 / 460, 172 / 250))
        weights, values = zip(*sorted(sweep), strict=True)
        axes.plot(weights, values, "o-", color=INK, linewidth=1.5, markersize=4)
        axes.axvline(alpha, color=VERMILION, linewidth=1.2)
        room = max(max(values) - min(values), 0.01)
        axes.set(xlim=(-0.02, 1.02), ylim=(min(values) - 0.1 * room, max(values) + 0.22 * room))
        right = alpha < 0.7
        axes.annotate(
            f"in effect: alpha = {alpha:.3g}",
            (alpha, max(values) + 0.14 * room),
            xytext=(5 if right else -5, 0),
            textcoords="offset points",
            ha="left" if right else "right",
            va="center",
        )
        axes.set_xlabel("alpha: 0 is the global score alone, 1 the local score alone", fontsize=10)
        axes.set_title("Mean AUROC on validation", loc="left", fontsize=11, x=-0.09, pad=8)

    return figure_svg((460, 250), name, "Mean AUROC on validation by the weight of the local score", draw)


def auroc_by_finding(findings: Sequence[FindingQuality], mean: MeanQuality, name: str) -> Markup:
    """AUROC of every finding by combined, global and local score, with intervals."""
    rows: list[tuple[str, tuple[Estimate, ...]]] = [
        (finding.name, (finding.auroc, finding.auroc_global, finding.auroc_local)) for finding in findings
    ]
    rows.append(("Mean", (mean.auroc, mean.auroc_global, mean.auroc_local)))
    ends = [end for _, row in rows for e in row for end in (e.value, e.low) if end is not None]
    lowest = min([0.5, *ends])
    height = 48 * len(rows) + 66

    def draw(figure: Figure) -> None:
        axes = _rows(figure, [label for label, _ in rows], height, (max(0.0, lowest - 0.03), 1.0))
        axes.axvline(0.5, color=DIM, linewidth=1, dashes=(3, 3))
        labels = ("Combined score", "Global score alone", "Local score alone")
        for place, (label, (shape, edge, face)) in enumerate(zip(labels, _MARKS, strict=True)):
            style: dict[str, Any] = {
                "marker": shape,
                "color": edge,
                "markerfacecolor": face,
                "markersize": 6,
                "linestyle": "none",
            }
            axes.plot([], [], label=label, **style)
            for row, (_, estimates) in enumerate(rows):
                estimate, y = estimates[place], row + 0.03 + 0.16 * place
                if estimate.low is not None and estimate.high is not None:
                    axes.plot([estimate.low, estimate.high], [y, y], color=edge, linewidth=1.4)
                if estimate.value is not None:
                    axes.plot([estimate.value], [y], clip_on=False, zorder=3, **style)
        for row, (_, estimates) in enumerate(rows):
            if all(estimate.value is None for estimate in estimates):
                _beside(axes, row + 0.1, "not defined", color=DIM)
        axes.axhline(len(rows) - 1.5, color=RULE, linewidth=1)
        axes.set_xlabel("AUROC (dashed: guessing)")
        _legend(axes, 3)

    return figure_svg((460, height), name, "AUROC of every finding with 95 % intervals", draw)


def grounding_bars(grounding: Sequence[Grounding], what: Literal["pointing", "mass"], name: str) -> Markup:
    """Region attention beside rollout and chance by finding, for the pointing game or the attention inside the mask."""
    height = 44 * len(grounding) + 66

    def draw(figure: Figure) -> None:
        axes = _rows(figure, ["Mean" if each.name == "mean" else each.name for each in grounding], height, (0.0, 1.0))
        for row, quality in enumerate(grounding):
            bars = ((getattr(quality, what), VERMILION), (getattr(quality, f"{what}_rollout"), SKY))
            for place, (estimate, colour) in enumerate(bars):
                y = row + 0.08 + 0.25 * place
                if estimate.value is None:
                    continue
                axes.barh([y], [estimate.value], height=0.21, color=colour)
                if estimate.low is not None and estimate.high is not None:
                    axes.plot([estimate.low, estimate.high], [y, y], color=INK, linewidth=1.1, solid_capstyle="butt")
            chance = getattr(quality, f"{what}_chance")
            if chance is not None:
                axes.plot([chance, chance], [row - 0.06, row + 0.47], color=INK, linewidth=2, solid_capstyle="butt")
        # Drawn as lines: a legend lists lines before bars.
        for label, colour, width in (("Region attention", VERMILION, 7), ("Rollout", SKY, 7), ("Chance", INK, 2)):
            axes.plot([], [], color=colour, linewidth=width, label=label, solid_capstyle="butt")
        axes.set_xlabel("Share of the images" if what == "pointing" else "Share of the attention")
        _legend(axes, 3)

    return figure_svg((460, height), name, f"Grounding of every finding, {what}", draw)


def _square(figure: Figure, box: tuple[float, float, float, float]) -> Axes:
    width, height = figure.get_size_inches() * 72
    axes = figure.add_axes((box[0] / width, box[1] / height, box[2] / width, box[3] / height))
    axes.set(xlim=(0, 1), ylim=(0, 1), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
    return axes


def _rows(figure: Figure, names: Sequence[str], height: float, limits: tuple[float, float]) -> Axes:
    """Axes with one row for each name. The name is above its marks: a column of long names would take their space."""
    width = figure.get_size_inches()[0] * 72
    axes = figure.add_axes((_MARGIN / width, 40 / height, 1 - 2 * _MARGIN / width, 1 - 66 / height))
    axes.set(xlim=limits, ylim=(len(names) - 0.35, -0.45), yticks=[])
    axes.spines["left"].set_visible(False)
    axes.grid(visible=False, axis="y")
    for row, label in enumerate(names):
        text = clean(label)
        text = text if len(text) <= _LONGEST else text[: _LONGEST - 1].rstrip() + "…"
        _beside(axes, row - 0.22, text, weight="bold")
    return axes


def _beside(axes: Axes, row: float, text: str, **style: str) -> None:
    """Text at the left edge on the colour of the page, which hides lines behind it."""
    behind = {"facecolor": PAPER, "edgecolor": "none", "pad": 1}
    axes.text(0, row, text, va="center", transform=axes.get_yaxis_transform(), bbox=behind, zorder=4, **style)  # type: ignore[arg-type]


def _legend(axes: Axes, columns: int) -> None:
    spacing: dict[str, Any] = {"handletextpad": 0.4, "columnspacing": 1.2, "handlelength": 1.2, "borderaxespad": 0.2}
    axes.legend(ncols=columns, loc="lower left", bbox_to_anchor=(-0.015, 1.0), **spacing)
