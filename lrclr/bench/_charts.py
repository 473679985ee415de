"""The charts of a benchmark's page: how latency is spread, what throughput costs in latency, and the roofline."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from lrclr._markup import Markup, tag
from lrclr.bench._axes import Axis, colour, grid, line, mark, svg, text
from lrclr.bench._view import share_of_peak, three

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lrclr.bench._case import Stage
    from lrclr.bench._result import Measurement, Result

__all__ = ["distributions", "legend", "roofline", "throughput_latency"]

_WIDTH: Final = 520
_ROW: Final = 54
_BINS: Final = 72
_LETTERS: Final = {"image_encoder": "I", "text_encoder": "T", "fusion_head": "F", "classifier": "C"}


def legend(numbers: Mapping[str, int], wrong: Sequence[str]) -> Markup:
    """Which sign is which target."""
    items = []
    for label, number in numbers.items():
        sign = tag("svg", mark(7, 7, number), viewBox="0 0 14 14", width="14", height="14", aria_hidden="true")
        name = tag("span", f"{label}: WRONG", class_="bad") if label in wrong else label
        items.append(tag("li", sign, name))
    return tag("ul", *items, class_="legend")


def distributions(group: Sequence[Measurement], numbers: Mapping[str, int], wrong: Sequence[str]) -> Markup:
    """All samples of one case, a row a target: how often each latency was seen, the median, and the 99 %.

    The slowest thousandth is left out of the picture's width, and told in numbers.
    """
    samples = [np.asarray(each.samples_us) / 1e3 for each in group]
    ends = [float(value) for each in samples for value in np.quantile(each, (0.0, 0.999))]
    height = _ROW * len(group) + 46
    across, up = Axis.over(ends, 8, _WIDTH - 8), Axis(0, 1, height - 38, 8, log=False)
    edges = np.geomspace(across.low, across.high, _BINS + 1)
    parts = list(grid(across, up, x_title="ms, from call to answer"))
    for place, (each, values) in enumerate(zip(group, samples, strict=True)):
        base, number = 8 + _ROW * (place + 1) - 6, numbers[each.case.target]
        counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
        heights = np.sqrt(counts / counts.max()) * 26  # the root, so that a thin tail can be seen
        outline = [(across.at(float(edges[0])), base)]
        for bin_, tall in enumerate(heights):
            left, right = across.at(float(edges[bin_])), across.at(float(edges[bin_ + 1]))
            outline += [(left, base - tall), (right, base - tall)]
        outline.append((across.at(float(edges[-1])), base))
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in outline)
        parts.append(tag("polygon", points=points, style=f"fill:{colour(number)};opacity:0.45"))
        times = each.quantiles_ms
        for name, tall, wide in (("p50", 30, 2.4), ("p99", 22, 1.4)):
            x = across.at(times[name])
            style = f"stroke:{colour(number)};stroke-width:{wide}"
            parts.append(tag("polyline", points=f"{x:.1f},{base} {x:.1f},{base - tall}", style=style))
        is_wrong = each.case.target in wrong
        name = f"{each.case.target}: WRONG" if is_wrong else each.case.target
        parts.append(text(10, base - 33, name, kind="bad" if is_wrong else "name"))
        said = " · ".join(f"{key} {three(times[key])}" for key in ("p50", "p99", "max"))
        parts.append(text(_WIDTH - 10, base - 33, said, anchor="end"))
    return svg(_WIDTH, height, f"Latencies of {group[0].case.what}", *parts)


def throughput_latency(stage: Stage, measurements: Sequence[Measurement], numbers: Mapping[str, int]) -> Markup | None:
    """Latency over throughput of one stage: what a larger batch or more callers bring and cost; None for one point."""
    own = [each for each in measurements if each.case.stage == stage]
    if len(own) < 2:
        return None
    across = Axis.over([each.throughput.value for each in own], 58, _WIDTH - 14)
    up = Axis.over([each.quantiles_ms[name] for each in own for name in ("p50", "p99")], 290, 26)
    unit = f"{own[0].case.unit} a second"
    parts = list(grid(across, up, x_title=unit, y_title="ms"))
    for label, number in numbers.items():
        closed = [each for each in own if each.case.target == label and each.case.rate is None]
        loaded = [each for each in own if each.case.target == label and each.case.rate is not None]
        for group, name, kind in ((closed, "p50", "line"), (closed, "p99", "line tail"), (loaded, "p99", "line load")):
            ordered = sorted(group, key=lambda each: each.throughput.value)
            points = [(across.at(each.throughput.value), up.at(each.quantiles_ms[name])) for each in ordered]
            if len(points) > 1:
                parts.append(line(points, kind, colour(number)))
            parts += [mark(x, y, number, 3.2 if kind != "line" else 4.5) for x, y in points]
            if kind == "line":
                for (x, y), each in zip(points, ordered, strict=True):
                    sign = f"{each.case.items}" + (f"×{each.case.callers}" if each.case.callers > 1 else "")
                    parts.append(text(x, y + 17, sign, anchor="middle"))
    return svg(_WIDTH, 330, f"Latency over throughput of {own[0].case.stage}", *parts)


def roofline(result: Result, numbers: Mapping[str, int]) -> Markup | None:
    """Operations a second over operations a byte, under what this machine was measured to do; None without a peak."""
    found = [(each, share_of_peak(result, each)) for each in result.measurements]
    points = [(each, work) for each, work in found if work is not None]
    if not points or result.bandwidth_gbs is None:
        return None
    peaks = {work.peak.dtype: work.peak for _, work in points}
    width, height = 760, 380
    ridge = [peak.gops / result.bandwidth_gbs for peak in peaks.values()]
    across = Axis.over([*(work.intensity for _, work in points), *ridge], 62, width - 16)
    up = Axis.over([*(work.gops for _, work in points), *(peak.gops for peak in peaks.values())], height - 44, 28)
    parts = list(grid(across, up, x_title="operations a byte", y_title="10⁹ operations a second"))
    for peak in peaks.values():
        turn = peak.gops / result.bandwidth_gbs
        from_ = max(across.low, up.low / result.bandwidth_gbs)
        roof = [(from_, from_ * result.bandwidth_gbs), (turn, peak.gops), (across.high, peak.gops)]
        parts.append(line([(across.at(x), up.at(y)) for x, y in roof], "roof"))
        said = f"{peak.dtype}: {three(peak.gops)} ({peak.by})"
        parts.append(text(across.end, up.at(peak.gops) - 7, said, anchor="end", kind="name"))
    taken: list[tuple[float, float]] = []
    for each, work in points:
        x, y = across.at(work.intensity), up.at(work.gops)
        parts.append(mark(x, y, numbers[each.case.target]))
        # Many points share a place; one of them carries the letters.
        if all(math.hypot(x - left, y - top) > 24 for left, top in taken):
            taken.append((x, y))
            parts.append(text(x, y + 17, f"{_LETTERS[each.case.stage]}{each.case.items}", anchor="middle"))
    return svg(width, height, "Roofline of this machine", *parts)
