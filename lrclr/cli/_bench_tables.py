"""Tables of a benchmark for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.table import Table
from rich.text import Text

from lrclr.bench._view import QUALITY_HEADS, quality_cells, rows_of
from lrclr.reports import significant, span, spanned

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
        yield _load(opened, several=several)
    if result.searches:
        table = _table("Highest rate", ("target", "what"), ("p99 at most", "calls a second"))
        for search in result.searches:
            table.add_row(
                search.case.target, search.case.what, f"{search.p99_ms:g} ms", significant(search.case.rate or 0.0)
            )
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
            each.target, each.what, f"{each.figure}, {each.unit}", significant(each.before), significant(each.after),
            significant(each.worse.value), span(each.worse), Text(verdict, _STYLES.get(each.verdict, "")),
        )  # fmt: skip
    for label, reason in found.wrong:
        table.add_row(label, reason, "quality", "", "", "", "", Text("WRONG", _STYLES["WRONG"]))
    return table


def _speed(rows: list[Row], *, several: bool) -> Table:
    """The reports have all of it; here is what fits a terminal."""
    words = ("what", "target") if several else ("what",)
    numbers = ["p50 ms", "p90", "p99", "max", "a second", *(["times faster"] if several else []), "of peak", ""]
    table = _table("Speed", words, numbers)
    for row in rows:
        each, times = row.measurement, row.measurement.quantiles_ms
        table.add_row(
            each.case.what,
            *((each.case.target,) if several else ()),
            *(significant(times[name]) for name in ("p50", "p90", "p99", "max")),
            spanned(each.throughput),
            *(("" if row.faster is None else spanned(row.faster),) if several else ()),
            "" if row.peak_share is None else f"{row.peak_share:.0%}",
            Text(row.verdict, _STYLES.get(row.verdict, "")),
        )
    return table


def _load(rows: list[Row], *, several: bool) -> Table:
    title = "Calls that arrive at random; latency from when they were due"
    words = ("what", "target") if several else ("what",)
    table = _table(title, words, ("due a second", "answered", "p50 ms", "p99", "max", ""))
    for row in rows:
        each, times = row.measurement, row.measurement.quantiles_ms
        table.add_row(
            each.case.what,
            *((each.case.target,) if several else ()),
            significant(each.case.rate or 0.0),
            significant(each.throughput.value / each.case.items),
            *(significant(times[name]) for name in ("p50", "p99", "max")),
            Text(row.verdict, _STYLES.get(row.verdict, "")),
        )
    return table


def _table(title: str, words: tuple[str, ...], numbers: tuple[str, ...] | list[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for name in words:
        table.add_column(name)
    for name in numbers:
        table.add_column(name, justify="right")
    return table
