"""The tables of a benchmark's page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from lrclr._markup import NONE, Markup, join, notes, row, table, tag
from lrclr.bench._statistics import QUANTILES, median_interval
from lrclr.bench._view import QUALITY_HEADS, quality_cells, span, three

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrclr.bench._result import Result
    from lrclr.bench._statistics import Interval
    from lrclr.bench._view import Row

__all__ = ["load_tables", "machine_table", "quality_table", "speed_table"]

_CLASSES: Final = {"WRONG": "bad", "saturated": "bad", "unstable": "fair", "stable": "good", "good": "good"}


def quality_table(result: Result) -> tuple[Markup, ...]:
    """How right each target is, and what refused."""
    rows = []
    for target in result.targets:
        cells = quality_cells(target.quality)
        rows.append(row(target.label, tag("td", cells[0], class_="left"), *cells[1:-1], _marked(cells[-1])))
    refused = [f"{target.label}: {reason}" for target in result.wrong for reason in target.quality.refused]
    images = max((target.quality.auroc_images for target in result.targets), default=0)
    said = [
        (
            "Of the very engine that was timed. Cosine: the least over the inputs, of the image embedding with the "
            "reference’s; centred: without each side’s mean; text: of the prompts’."
        ),
        "Regions: share of the selected ones that are the reference’s. Largest error: of a finding’s probability.",
        f"AUROC: mean over the findings that the model knows, on {images} synthetic radiographs that lrclr carries."
        if images
        else "",
        *refused,
    ]
    return (table(("Target", *QUALITY_HEADS), rows), notes(said))


def speed_table(result: Result, rows: Sequence[Row]) -> tuple[Markup, ...]:
    """Every case in closed loop."""
    heads = ("What", "Target", *QUANTILES, "A second", "Times faster", "Of peak", "J each", "")
    lines = []
    for one in rows:
        each = one.measurement
        times = [three(value) for value in each.quantiles_ms.values()]
        rate = _with_span(each.throughput, each.case.unit)
        faster = NONE if one.faster is None else _with_span(one.faster)
        share = NONE if one.peak_share is None else f"{one.peak_share:.0%}"
        joules = NONE if one.joules is None else three(one.joules)
        target = tag("td", each.case.target, class_="left")
        lines.append(row(each.case.what, target, *times, rate, faster, share, joules, _marked(one.verdict)))
    said = (
        (
            f"Times faster than {result.targets[0].label}, median of the ratios round by round: all took turns, in "
            "another order each round. Small print: 95 % interval, by a bootstrap that draws whole rounds."
        ),
        (
            "Unstable: no steady state was reached before measuring, or the rounds differ by more than "
            f"{result.settings.get('tolerance', 0):.0%} (interquartile range). Percentiles are samples that were seen."
        ),
        (
            "A call ends when its answer is in host memory: times are those of a synchronised device, copies included; "
            "no engine here tells them apart."
        ),
    )
    return (table(heads, lines), notes(said))


def load_tables(result: Result, rows: Sequence[Row]) -> tuple[Markup, ...]:
    """Calls that arrived at random, and the highest rates."""
    parts = []
    if rows:
        heads = ("What", "Target", "Calls a second due", "Answered", "p50 ms", "p95", "p99", "max", "Never made", "")
        lines = []
        for one in rows:
            each, times = one.measurement, one.measurement.quantiles_ms
            answered = three(each.throughput.value / each.case.items)
            lost = sum((part.due or 0) - len(part.latency_us) for part in each.rounds)
            figures = (three(times[name]) for name in ("p50", "p95", "p99", "max"))
            cells = (three(each.case.rate or 0.0), answered, *figures, str(lost))
            lines.append(row(each.case.what, tag("td", each.case.target, class_="left"), *cells, _marked(one.verdict)))
        parts.append(table(heads, lines))
    if result.searches:
        lines = [
            row(search.case.target, tag("td", search.case.what, class_="left"), three(search.case.rate or 0.0),
                f"{search.p99_ms:g} ms", str(len(search.trials)))
            for search in result.searches
        ]  # fmt: skip
        parts += [
            tag("h3", "Highest rate"),
            table(("Target", "What", "Calls a second", "p99 at most", "Trials"), lines),
        ]
    said = (
        (
            "Calls arrive as a Poisson process, whether or not earlier ones were answered, and wait for a free caller. "
            "Latency counts from the moment that a call was due: a stall shows in all that had to wait."
        ),
        "Saturated: the queue kept growing; calls are given up when one has waited half of the window.",
    )
    parts.append(notes(said))
    return tuple(parts)


def machine_table(rows: Sequence[Row]) -> tuple[Markup, ...]:
    """Processors, memory and clocks, case by case."""
    heads = (
        "What",
        "Target",
        "Own processors",
        "Others’",
        "Stolen",
        "Memory MiB",
        "Clock MHz",
        "Throttled",
        "GPU busy",
        "GPU MHz",
    )
    lines = []
    for one in rows:
        uses = [each.use for each in one.measurement.rounds]

        def middle(values: Sequence[float | None], form: str) -> str:
            known = [value for value in values if value is not None]
            return format(median_interval(known).value, form) if known else NONE

        cells = (
            middle([use.process for use in uses], ".0%"),
            middle([use.others for use in uses], ".0%"),
            middle([use.stolen for use in uses], ".1%"),
            middle([use.rss_mib for use in uses], ",.0f"),
            middle([use.mhz for use in uses], ",.0f"),
            middle([use.throttled for use in uses], ".0f"),
            middle([use.gpu.busy for use in uses if use.gpu], ".0%"),
            middle([use.gpu.mhz for use in uses if use.gpu], ",.0f"),
        )
        case = one.measurement.case
        lines.append(row(case.what, tag("td", case.target, class_="left"), *cells))
    said = [
        "Medians of the rounds. Own processors: share of all that this program had; a server’s share is under others’.",
        "Memory is this program’s at the end of a round, everything that it has open included. A dash: not told here.",
    ]
    return (table(heads, lines), notes(said))


def _with_span(interval: Interval, unit: str = "") -> Markup:
    between = span(interval)
    value = f"{three(interval.value)} {unit}".strip()
    return join([value, tag("small", between) if between else ""])


def _marked(verdict: str) -> Markup:
    return tag("td", tag("span", verdict, class_=_CLASSES.get(verdict, "")))
