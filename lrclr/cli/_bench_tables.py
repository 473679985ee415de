"""Tables of a benchmark on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from lrclr.bench._view import OPERATOR_HEADS, QUALITY_HEADS, operator_rows, operator_summary, quality_cells, rows_of
from lrclr.cli._console import new_table
from lrclr.reports import significant, span, spanned

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lrclr.bench import Result, ResultComparison
    from lrclr.bench._view import Row

_STYLES: Final = {
    "WRONG": "red bold",
    "saturated": "red",
    "unstable": "yellow",
    "slower": "red bold",
    "faster": "green",
}


def tables(result: Result) -> Iterator[Table]:
    """Speed, load, quality, and the operators of the image encoder; the reports have those of other graphs."""
    rows = rows_of(result)
    several = len(result.targets) > 1
    yield _speed([row for row in rows if row.measurement.case.rate is None], several=several)
    opened = [row for row in rows if row.measurement.case.rate is not None]
    if opened:
        yield _load(opened, several=several)
    if result.searches:
        table = new_table("Highest rate", ("target", "what"), ("p99 at most", "calls a second"))
        for search in result.searches:
            table.add_row(
                search.case.target, search.case.what, f"{search.p99_ms:g} ms", significant(search.case.rate or 0.0)
            )
        yield table
    table = new_table("Quality, of the engine that was timed", ("target", "against"), map(str.lower, QUALITY_HEADS[1:]))
    for target in result.targets:
        cells = quality_cells(target.quality)
        table.add_row(target.label, *cells[:-1], _verdict(cells[-1]))
    yield table
    for target in result.targets:
        for each in target.operators:
            if each.case.stage == "image_encoder":
                title = f"Where the time goes: {operator_summary(each)}"
                table = new_table(title, ("operator", "type"), map(str.lower, OPERATOR_HEADS[2:]))
                for cells in operator_rows(each):
                    table.add_row(*cells)
                yield table


def comparison_table(found: ResultComparison) -> Table:
    """One row a configuration, the slower ones first."""
    several = len({each.target for each in found.changes}) > 1
    table = Table(box=SIMPLE, pad_edge=False)
    for name, right in (("B is", False), ("times as fast", True), ("95 %", True), ("A", True), ("B", True)):
        table.add_column(name, justify="right" if right else "left", no_wrap=True)
    for name in ("what", "target")[: 1 + several]:
        table.add_column(name)
    for label, reason in found.wrong:
        table.add_row(_verdict("WRONG"), "", "", "", "", reason, *((label,) if several else ()))
    for each in found.by_configuration:
        what = each.what if each.figure == "latency" else f"{each.what}, {each.figure}"
        figures = (f"{significant(value)} {each.unit}" for value in (each.before, each.after))
        table.add_row(
            _verdict(each.word), significant(each.speed.value), span(each.speed), *figures, what,
            *((each.target,) if several else ()),
        )  # fmt: skip
    return table


def _speed(rows: list[Row], *, several: bool) -> Table:
    """The columns that fit a terminal; the reports have all."""
    words = ("what", "target") if several else ("what",)
    numbers = ["p50 ms", "p90", "p99", "max", "a second", *(["times faster"] if several else []), "of peak", ""]
    table = new_table("Speed", words, numbers)
    for row in rows:
        each, times = row.measurement, row.measurement.quantiles_ms
        table.add_row(
            each.case.what,
            *((each.case.target,) if several else ()),
            *(significant(times[name]) for name in ("p50", "p90", "p99", "max")),
            spanned(each.throughput),
            *(("" if row.faster is None else spanned(row.faster),) if several else ()),
            "" if row.peak_share is None else f"{row.peak_share:.0%}",
            _verdict(row.verdict_with_reason),
        )
    return table


def _load(rows: list[Row], *, several: bool) -> Table:
    title = "Calls at random times; latency from when they were due"
    words = ("what", "target") if several else ("what",)
    table = new_table(title, words, ("due a second", "answered", "p50 ms", "p99", "max", ""))
    for row in rows:
        each, times = row.measurement, row.measurement.quantiles_ms
        table.add_row(
            each.case.what,
            *((each.case.target,) if several else ()),
            significant(each.case.rate or 0.0),
            significant(each.throughput.value / each.case.items),
            *(significant(times[name]) for name in ("p50", "p99", "max")),
            _verdict(row.verdict),
        )
    return table


def _verdict(text: str) -> Text:
    return Text(text, _STYLES.get(text.partition(",")[0], ""))
