"""A benchmark as one page that needs nothing else: no network, no scripts, every picture in it."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Final

from lrclr._markup import NONE, Markup, document, facts, join, notes, row, table, tag
from lrclr.bench._case import STAGES
from lrclr.bench._charts import distributions, legend, roofline, throughput_latency
from lrclr.bench._markdown import environment_line
from lrclr.bench._statistics import median_interval
from lrclr.bench._view import QUALITY_HEADS, notes_of, quality_cells, rows_of, span, three

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lrclr.bench._result import Measurement, Result
    from lrclr.bench._statistics import Interval
    from lrclr.bench._view import Row

__all__ = ["page"]

_NOTICE: Final = "Research use only. Not a medical device."
_CLASSES: Final = {
    "WRONG": "bad",
    "wrong": "bad",
    "saturated": "bad",
    "unstable": "fair",
    "stable": "good",
    "good": "good",
}


def page(result: Result) -> str:
    """The whole page. The same result gives the same bytes."""
    parts = list(_sections(result))
    links = join(tag("a", title, href=f"#{key}") for key, title, _ in parts)
    sections = (tag("section", tag("h2", title), *content, id=key) for key, title, content in parts)
    body = (
        _header(result),
        tag("nav", tag("div", links, class_="page"), aria_label="Sections"),
        tag("main", *sections, class_="page"),
        tag("footer", tag("div", f"Made by lrclr {result.environment['lrclr']}. {_NOTICE}", class_="page")),
    )
    title = f"Benchmark of {', '.join(target.label for target in result.targets)}"
    return document(title, body, [("lrclr.evaluation", "report.css"), ("lrclr.bench", "bench.css")])


def _sections(result: Result) -> Iterator[tuple[str, str, tuple[Markup, ...]]]:
    """Key, title and content of each, in the order of a reader's questions: is it right, how fast, how sure, why."""
    rows = rows_of(result)
    closed = [one for one in rows if one.measurement.case.rate is None]
    opened = [one for one in rows if one.measurement.case.rate is not None]
    numbers = {target.label: number for number, target in enumerate(result.targets)}
    wrong = [target.label for target in result.wrong]
    signs = legend(numbers, wrong)
    yield "quality", "Quality", _quality(result)
    yield "speed", "Speed", _speed(result, closed)
    groups = _groups([one.measurement for one in closed])
    figures = [tag("figure", tag("figcaption", tag("b", group[0].case.what)), distributions(group, numbers, wrong))
               for group in groups]  # fmt: skip
    said = notes([
        "Thick line: median. Thin line: 99 % were no slower. Height: the root of how often a latency was seen.",
        "The axis ends at the slowest thousandth; the slowest call is told in numbers.",
    ])  # fmt: skip
    yield "latency", "How latency is spread", (signs, tag("div", *figures, class_="charts"), said)
    curves = []
    for stage in STAGES:
        chart = throughput_latency(stage, [one.measurement for one in rows], numbers)
        if chart is not None:
            curves.append(tag("figure", tag("figcaption", tag("b", stage.replace("_", " "))), chart))
    if curves:
        said = notes([
            "Solid: p50 in closed loop. Dashed: its p99. Dotted: p99 of calls that arrive at random. "
            "Numbers: batch × callers.",
        ])  # fmt: skip
        yield "throughput", "What throughput costs in latency", (signs, tag("div", *curves, class_="charts"), said)
    if opened or result.searches:
        yield "load", "Under load", _load(result, opened)
    roof = roofline(result, numbers)
    if roof is not None:
        yield "roofline", "Roofline", (signs, tag("figure", roof, class_="wide"), _roof_notes(result))
    yield "machine", "What it took of the machine", _machine(rows)
    yield "settings", "Settings and environment", (_settings(result),)


def _header(result: Result) -> Markup:
    lines = [tag("p", environment_line(result))]
    lines += [tag("p", note, class_="alert") for note in notes_of(result)]
    boxes = []
    for one in rows_of(result):
        case = one.measurement.case
        smallest = min((each.case.batch for each in result.measurements if each.case.stage == "classifier"), default=0)
        if (case.stage, case.callers, case.rate, case.batch) == ("classifier", 1, None, smallest):
            times = one.measurement.quantiles_ms
            value = f"{three(times['p50'])} ms"
            said = f"{case.what}, p99 {three(times['p99'])} ms, {one.verdict}"
            boxes.append(tag("div", tag("dt", case.target), tag("dd", value), tag("dd", said)))
    figures = tag("dl", *boxes[:6], class_="figures") if boxes else Markup("")
    return tag("header", tag("div", tag("h1", "Benchmark"), *lines, figures, class_="page"))


def _quality(result: Result) -> tuple[Markup, ...]:
    rows = []
    for target in result.targets:
        cells = quality_cells(target.quality)
        rows.append(row(target.label, tag("td", cells[0], class_="left"), *cells[1:-1], _marked(cells[-1])))
    refused = [f"{target.label}: {reason}" for target in result.wrong for reason in target.quality.refused]
    images = max((target.quality.auroc_images for target in result.targets), default=0)
    said = [
        "Of the very engine that was timed. Cosine: the least over the inputs, of the image embedding with the "
        "reference’s; centred: after each side’s mean is taken out; text: of the prompts’.",
        "Regions: share of the selected ones that are the reference’s. Largest error: of a finding’s probability.",
        f"AUROC: mean over the findings that the model knows, on {images} synthetic radiographs that lrclr carries."
        if images
        else "",
        *refused,
    ]
    return (table(("Target", *QUALITY_HEADS), rows), notes(said))


def _speed(result: Result, rows: Sequence[Row]) -> tuple[Markup, ...]:
    heads = (
        "What",
        "Target",
        "p50 ms",
        "p90",
        "p95",
        "p99",
        "max",
        "A second",
        "Times faster",
        "Of peak",
        "J each",
        "",
    )
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
    said = [
        f"Times faster than {result.targets[0].label}, median of the ratios round by round: all took turns, in another "
        "order each round. Small print: 95 % interval, by a bootstrap that draws whole rounds.",
        "Unstable: no steady state was reached before measuring, or the rounds differ by more than "
        f"{result.settings.get('tolerance', 0):.0%} (interquartile range). Percentiles are samples that were seen.",
        "A call ends when its answer is in host memory: times are those of a synchronised device, copies included; no "
        "engine here tells them apart.",
    ]
    return (table(heads, lines), notes(said))


def _load(result: Result, rows: Sequence[Row]) -> tuple[Markup, ...]:
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
    parts.append(
        notes([
            "Calls arrive as a Poisson process, whether or not earlier ones were answered, and wait for a free caller. "
            "Latency counts from the moment that a call was due, so that a stall shows in all that had to wait.",
            "Saturated: the queue kept growing; calls are given up when one has waited half of the window.",
        ])
    )  # fmt: skip
    return tuple(parts)


def _roof_notes(result: Result) -> Markup:
    return notes([
        f"Roof: the fastest product of large matrices measured here, in the type that the engine computes in, and "
        f"{three(result.bandwidth_gbs or 0.0)} GB/s of copied memory. It is no data sheet’s.",
        "Operations are counted from the model’s configuration, as if every block transformed every token: a graph that "
        "leaves out what nobody reads is not counted down for it. Bytes: every weight once, inputs and outputs. "
        "I image encoder, T text encoder, F fusion head, C pixels to findings; the number is the batch.",
        "A small batch lies left of the ridge: its weights must come from memory, or from a cache that the roof knows "
        "nothing of. A network that fits the cache can lie above the slope.",
    ])  # fmt: skip


def _machine(rows: Sequence[Row]) -> tuple[Markup, ...]:
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


def _settings(result: Result) -> Markup:
    shown = [facts("Measured", result.settings)]
    for target in result.targets:
        told = {
            "engine": target.engine, "precision": target.precision, "transport": target.transport,
            "threads": target.threads or "the engine’s choice", "sha256": target.sha256,
            "checkpoint sha256": target.checkpoint_sha256, "network": target.network,
        }  # fmt: skip
        shown.append(facts(target.label, told))
    own = dict(result.environment)
    packages, machine = own.pop("packages"), own.pop("machine")
    shown += [facts("Machine", machine), facts("System", own), facts("Packages", packages)]
    return tag("div", *shown, class_="facts")


def _groups(measurements: Sequence[Measurement]) -> list[list[Measurement]]:
    """Those of one case together, in the order of the first."""
    order = {key: place for place, key in reversed(list(enumerate(each.case.key for each in measurements)))}
    ordered = sorted(measurements, key=lambda each: order[each.case.key])
    return [list(group) for _, group in groupby(ordered, key=lambda each: each.case.key)]


def _with_span(interval: Interval, unit: str = "") -> Markup:
    between = span(interval)
    value = f"{three(interval.value)} {unit}".strip()
    return join([value, tag("small", between) if between else ""])


def _marked(verdict: str) -> Markup:
    return tag("td", tag("span", verdict, class_=_CLASSES.get(verdict, "")))
