"""Tables of a benchmark for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.table import Table
from rich.text import Text

from lrclr.bench._view import QUALITY_HEADS, quality_cells, rows_of, span, three

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lrclr.bench import Result, ResultComparison
    from lrclr.bench._view import Row

_STYLES: Final = {
    "WRONG": "red bold",
    "saturated": "red",
    "unstable": "yellow",
    "regression": "red bold",
    "improvement": "green",
}


def tables(result: Result) -> Iterator[Table]:
    """Speed, load, quality."""
    rows = rows_of(result)
    several = len(result.targets) > 1
    yield _speed([row for row in rows if row.measurement.case.rate is None], several=several)
    opened = [row for row in rows if row.measurement.case.rate is not None]
    if opened:
        yield _load(opened)
    if result.searches:
        table = _table("Highest rate", ("target", "what"), ("p99 at most", "calls a second"))
        for search in result.searches:
            table.add_row(search.case.target, search.case.what, f"{search.p99_ms:g} ms", three(search.case.rate or 0.0))
        yield table
    table = _table("Quality, of the engine that was timed", ("target", "against"), [*map(str.lower, QUALITY_HEADS[1:])])
    for target in result.targets:
        cells = quality_cells(target.quality)
        table.add_row(target.label, *cells[:-1], Text(cells[-1], _STYLES.get(cells[-1], "")))
    yield table


def comparison_table(found: ResultComparison) -> Table:
    """Every figure of both."""
    table = _table("B against A", ("target", "what", "figure"), ("A", "B", "times worse", "95 %", ""))
    for each in found.changes:
        verdict = each.verdict if each.stable else f"{each.verdict}, unstable"
        table.add_row(
            each.target, each.what, f"{each.figure}, {each.unit}", three(each.before), three(each.after),
            three(each.worse.value), span(each.worse), Text(verdict, _STYLES.get(each.verdict, "")),
        )  # fmt: skip
    for label, reason in found.wrong:
        table.add_row(label, reason, "quality", "", "", "", "", Text("WRONG", _STYLES["WRONG"]))
    return table


def _speed(rows: list[Row], *, several: bool) -> Table:
    numbers = [
        "p50 ms",
        "p90",
        "p95",
        "p99",
        "max",
        "a second",
        "95 %",
        *(["times faster"] if several else []),
        "of peak",
        "",
    ]
    table = _table("Speed", ("what", "target"), numbers)
    for row in rows:
        each = row.measurement
        faster = ("" if row.faster is None else f"{three(row.faster.value)} ({span(row.faster)})",) if several else ()
        table.add_row(
            each.case.what, each.case.target, *(three(value) for value in each.quantiles_ms.values()),
            f"{three(each.throughput.value)} {each.case.unit}", span(each.throughput), *faster,
            "" if row.peak_share is None else f"{row.peak_share:.0%}", Text(row.verdict, _STYLES.get(row.verdict, "")),
        )  # fmt: skip
    return table


def _load(rows: list[Row]) -> Table:
    title = "Calls that arrive at random; latency from when they were due"
    table = _table(title, ("what", "target"), ("due a second", "answered", "p50 ms", "p95", "p99", "max", ""))
    for row in rows:
        each, times = row.measurement, row.measurement.quantiles_ms
        table.add_row(
            each.case.what, each.case.target, three(each.case.rate or 0.0),
            three(each.throughput.value / each.case.items), *(three(times[name]) for name in ("p50", "p95", "p99", "max")),
            Text(row.verdict, _STYLES.get(row.verdict, "")),
        )  # fmt: skip
    return table


def _table(title: str, words: tuple[str, ...], numbers: tuple[str, ...] | list[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for name in words:
        table.add_column(name)
    for name in numbers:
        table.add_column(name, justify="right")
    return table
