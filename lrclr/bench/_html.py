"""A benchmark as one page that needs nothing else: no network, no scripts, every picture in it."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Final

from lrclr._markup import Markup, document, facts, join, notes, tag
from lrclr.bench._case import STAGES
from lrclr.bench._charts import distributions, legend, roofline, throughput_latency
from lrclr.bench._html_tables import load_tables, machine_table, quality_table, speed_table
from lrclr.bench._markdown import environment_line
from lrclr.bench._view import notes_of, rows_of, three

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lrclr.bench._result import Measurement, Result
    from lrclr.bench._view import Row

__all__ = ["page"]

_NOTICE: Final = "Research use only. Not a medical device."


def page(result: Result) -> str:
    """The whole page. The same result gives the same bytes."""
    rows = rows_of(result)
    parts = list(_sections(result, rows))
    links = join(tag("a", title, href=f"#{key}") for key, title, _ in parts)
    sections = (tag("section", tag("h2", title), *content, id=key) for key, title, content in parts)
    body = (
        _header(result, rows),
        tag("nav", tag("div", links, class_="page"), aria_label="Sections"),
        tag("main", *sections, class_="page"),
        tag("footer", tag("div", f"Made by lrclr {result.environment['lrclr']}. {_NOTICE}", class_="page")),
    )
    title = f"Benchmark of {', '.join(target.label for target in result.targets)}"
    return document(title, body, [("lrclr.evaluation", "report.css"), ("lrclr.bench", "bench.css")])


def _sections(result: Result, rows: Sequence[Row]) -> Iterator[tuple[str, str, tuple[Markup, ...]]]:
    """Key, title and content of each, in the order of a reader's questions: is it right, how fast, how sure, why."""
    closed = [one for one in rows if one.measurement.case.rate is None]
    opened = [one for one in rows if one.measurement.case.rate is not None]
    numbers = {target.label: number for number, target in enumerate(result.targets)}
    wrong = [target.label for target in result.wrong]
    signs = legend(numbers, wrong)
    yield "quality", "Quality", quality_table(result)
    yield "speed", "Speed", speed_table(result, closed)
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
            ("Solid: p50 in closed loop. Dashed: its p99. Dotted: p99 of calls that arrive at random. "
            "Numbers: batch × callers."),
        ])  # fmt: skip
        yield "throughput", "What throughput costs in latency", (signs, tag("div", *curves, class_="charts"), said)
    if opened or result.searches:
        yield "load", "Under load", load_tables(result, opened)
    roof = roofline(result, numbers)
    if roof is not None:
        yield "roofline", "Roofline", (signs, tag("figure", roof, class_="wide"), _roof_notes(result))
    yield "machine", "What it took of the machine", machine_table(rows)
    yield "settings", "Settings and environment", (_settings(result),)


def _header(result: Result, rows: Sequence[Row]) -> Markup:
    lines = [tag("p", environment_line(result))]
    lines += [tag("p", note, class_="alert") for note in notes_of(result)]
    boxes = []
    for one in rows:
        case = one.measurement.case
        smallest = min((each.case.batch for each in result.measurements if each.case.stage == "classifier"), default=0)
        if (case.stage, case.callers, case.rate, case.batch) == ("classifier", 1, None, smallest):
            times = one.measurement.quantiles_ms
            value = f"{three(times['p50'])} ms"
            said = f"{case.what}, p99 {three(times['p99'])} ms, {one.verdict}"
            boxes.append(tag("div", tag("dt", case.target), tag("dd", value), tag("dd", said)))
    figures = tag("dl", *boxes[:6], class_="figures") if boxes else Markup("")
    return tag("header", tag("div", tag("h1", "Benchmark"), *lines, figures, class_="page"))


def _roof_notes(result: Result) -> Markup:
    lines = (
        (
            f"Roof: the fastest product of large matrices measured here, in the type that the engine computes in, and "
            f"{three(result.bandwidth_gbs or 0.0)} GB/s of copied memory. It is no data sheet’s."
        ),
        (
            "Operations are counted from the model’s configuration, as if every block transformed every token: a graph "
            "that leaves out what nobody reads is not counted down for it. Bytes: weights once, inputs and outputs."
        ),
        "I image encoder, T text encoder, F fusion head, C pixels to findings; the number is the batch.",
        "A network that fits the processor’s cache can lie above the slope, which is that of memory.",
    )
    return notes(lines)


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
