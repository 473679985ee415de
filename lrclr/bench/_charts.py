"""Charts of a benchmark's page: distributions of latencies, latency over throughput, roofline."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from lrclr.bench._view import share_of_peak
from lrclr.reports import BAD, DIM, INK, figure_svg, number_axis, series_style, significant, with_room

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from markupsafe import Markup
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lrclr.bench._case import Stage
    from lrclr.bench._result import Measurement, Result

_WIDTH: Final = 520
_ROW: Final = 54
_BINS: Final = 72
_LETTERS: Final = {"image_encoder": "I", "text_encoder": "T", "fusion_head": "F", "classifier": "C", "files": "D"}


def distributions(group: Sequence[Measurement], series: Mapping[str, int], wrong: Sequence[str], name: str) -> Markup:
    """Histogram of the latencies of one case, with median and p99: one row for each target.

    The axis ends at the slowest thousandth; the slowest call is given as a number.

    Args:
        group: measurements of the same case.
        series: number of each target's colour and marker.
        wrong: labels of targets with wrong answers.
        name: name of the figure.
    """
    samples = [np.asarray(each.samples_us) / 1e3 for each in group]
    ends = [float(value) for each in samples for value in np.quantile(each, (0.0, 0.999))]
    low, high = with_room(ends)
    edges = np.geomspace(low, high, _BINS + 1)
    height = _ROW * len(group) + 46

    def draw(figure: Figure) -> None:
        axes = figure.add_axes((8 / _WIDTH, 38 / height, 1 - 16 / _WIDTH, 1 - 46 / height))
        axes.set(xlim=(low, high), ylim=(_ROW * len(group), 0), yticks=[], xlabel="ms, from call to answer")
        axes.spines["left"].set_visible(False)
        axes.set_xscale("log")
        number_axis(axes.xaxis, low, high)
        for place, (each, values) in enumerate(zip(group, samples, strict=True)):
            base, label = _ROW * (place + 1) - 4, each.case.target
            colour = series_style(series[label])["color"]
            counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
            # The square root makes a thin tail visible.
            heights = np.sqrt(counts / counts.max()) * 24
            tops = base - np.append(heights, heights[-1])
            axes.fill_between(edges, base, tops, step="post", color=colour, alpha=0.45, linewidth=0)
            for quantile, tall, wide in (("p50", 28, 2.4), ("p99", 20, 1.4)):
                x = each.quantiles_ms[quantile]
                axes.plot([x, x], [base, base - tall], color=colour, linewidth=wide, solid_capstyle="butt")
            text = " · ".join(f"{key} {significant(each.quantiles_ms[key])}" for key in ("p50", "p99", "max"))
            transform = axes.get_yaxis_transform()
            axes.text(0, base - 33, _label(label, wrong), weight="bold", transform=transform, **_alert(label, wrong))
            axes.text(1, base - 33, text, ha="right", color=DIM, transform=transform)

    return figure_svg((_WIDTH, height), name, f"Latencies of {group[0].case.what}", draw)


def throughput_latency(
    stage: Stage, measurements: Sequence[Measurement], series: Mapping[str, int], wrong: Sequence[str], name: str
) -> Markup | None:
    """Latency over throughput of one stage, by batch and callers; None for a single point."""
    own = [each for each in measurements if each.case.stage == stage]
    if len(own) < 2:
        return None
    labels = [label for label in series if any(each.case.target == label for each in own)]
    height = 330 + 18 * len(labels)

    def draw(figure: Figure) -> None:
        top = 26 + 18 * len(labels)
        axes = figure.add_axes((56 / _WIDTH, 42 / height, 1 - 70 / _WIDTH, 1 - (42 + top) / height))
        x_limits = with_room([each.throughput.value for each in own])
        y_limits = with_room([each.quantiles_ms[quantile] for each in own for quantile in ("p50", "p99")])
        axes.set_xlabel(f"{own[0].case.unit} a second")
        axes.set(xscale="log", yscale="log", xlim=x_limits, ylim=y_limits)
        number_axis(axes.xaxis, *x_limits)
        number_axis(axes.yaxis, *y_limits)
        axes.set_title("ms", loc="left", fontsize=11, x=-0.1, pad=6)
        for label in labels:
            style = series_style(series[label])
            closed = [each for each in own if each.case.target == label and each.case.rate is None]
            loaded = [each for each in own if each.case.target == label and each.case.rate is not None]
            for group, quantile, line, size in (
                (closed, "p50", "-", 7),
                (closed, "p99", "--", 5),
                (loaded, "p99", ":", 5),
            ):
                ordered = sorted(group, key=lambda each: each.throughput.value)
                points = [(each.throughput.value, each.quantiles_ms[quantile]) for each in ordered]
                if points:
                    axes.plot(*zip(*points, strict=True), line, markersize=size, clip_on=False, **style)
                for point, each in zip(points if line == "-" else (), ordered, strict=False):
                    callers = f"×{each.case.callers}" if each.case.callers > 1 else ""
                    _below(axes, point, f"{each.case.items}{callers}")
            axes.plot([], [], "-", label=_label(label, wrong), **style)
        _legend(axes)

    return figure_svg((_WIDTH, height), name, f"Latency over throughput of {own[0].case.stage}", draw)


def roofline(result: Result, series: Mapping[str, int], wrong: Sequence[str]) -> Markup | None:
    """Operations a second over operations a byte, with the measured limits of this machine; None without a peak."""
    found = [(each, share_of_peak(result, each)) for each in result.measurements]
    points = [(each, work) for each, work in found if work is not None]
    if not points or result.bandwidth_gbs is None:
        return None
    bandwidth = result.bandwidth_gbs
    peaks = {work.peak.dtype: work.peak for _, work in points}
    labels = [label for label in series if any(each.case.target == label for each, _ in points)]
    width, height = 760, 390 + 18 * len(labels)

    def draw(figure: Figure) -> None:
        top = 30 + 18 * len(labels)
        axes = figure.add_axes((64 / width, 44 / height, 1 - 80 / width, 1 - (44 + top) / height))
        x_limits = with_room(
            [*(work.intensity for _, work in points), *(peak.gops / bandwidth for peak in peaks.values())]
        )
        y_limits = with_room([*(work.gops for _, work in points), *(peak.gops for peak in peaks.values())])
        axes.set_xlabel("operations a byte")
        axes.set_title("10⁹ operations a second", loc="left", fontsize=11, x=-0.07, pad=6)
        axes.set(xscale="log", yscale="log", xlim=x_limits, ylim=y_limits)
        number_axis(axes.xaxis, *x_limits)
        number_axis(axes.yaxis, *y_limits)
        for peak in peaks.values():
            start, turn = max(x_limits[0], y_limits[0] / bandwidth), peak.gops / bandwidth
            axes.plot([start, turn, x_limits[1]], [start * bandwidth, peak.gops, peak.gops], color=INK, linewidth=1.6)
            text = f"{peak.dtype}: {significant(peak.gops)} ({peak.by})"
            axes.annotate(text, (x_limits[1], peak.gops), (0, 5), textcoords="offset points", ha="right", weight="bold")
        taken: list[tuple[float, float]] = []
        for each, work in points:
            axes.plot(
                [work.intensity], [work.gops], linestyle="none", markersize=7, **series_style(series[each.case.target])
            )
            place = tuple(axes.transData.transform((work.intensity, work.gops)))
            # Of points that overlap, one gets the letters.
            if all(math.dist(place, other) > 24 for other in taken):
                taken.append((place[0], place[1]))
                _below(axes, (work.intensity, work.gops), f"{_LETTERS[each.case.stage]}{each.case.items}")
        for label in labels:
            axes.plot([], [], linestyle="none", label=_label(label, wrong), **series_style(series[label]))
        _legend(axes)

    return figure_svg((width, height), "roofline-chart", "Roofline of this machine", draw)


def _label(label: str, wrong: Sequence[str]) -> str:
    return f"{label}: WRONG" if label in wrong else label


def _alert(label: str, wrong: Sequence[str]) -> dict[str, Any]:
    return {"color": BAD} if label in wrong else {}


def _below(axes: Axes, point: tuple[float, float], text: str) -> None:
    axes.annotate(text, point, (0, -6), textcoords="offset points", ha="center", va="top", color=DIM)


def _legend(axes: Axes) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.08), handlelength=1.6, borderaxespad=0.0, labelspacing=0.3)
