"""A benchmark as Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lrclr.bench._view import QUALITY_HEADS, notes_of, quality_cells, rows_of, span, three

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from lrclr.bench._compare import ResultComparison
    from lrclr.bench._result import Result
    from lrclr.bench._view import Row

__all__ = ["comparison_markdown", "environment_line", "markdown"]


def markdown(result: Result) -> str:
    """Figures first, then the machine that they are of."""
    return "\n".join(_lines(result)) + "\n"


def comparison_markdown(comparison: ResultComparison) -> str:
    """Every figure of both, for a pull request."""
    lines = [
        "| target | what | figure | before | after | times worse (95 %) | |",
        "|---|---|---|---:|---:|---:|---|",
    ]
    for each in comparison.changes:
        mark = each.verdict if each.stable else f"{each.verdict}, unstable"
        worse = f"{three(each.worse.value)} {_brackets(span(each.worse))}".strip()
        cells = (
            each.target,
            each.what,
            each.figure,
            f"{three(each.before)} {each.unit}",
            three(each.after),
            worse,
            mark,
        )
        lines.append(_row(cells))
    lines += ["", *(f"- {label} is WRONG: {reason}" for label, reason in comparison.wrong)]
    lines += [f"- differs: {each}" for each in comparison.differences]
    return "\n".join(lines) + "\n"


def environment_line(result: Result) -> str:
    """The machine in a line."""
    machine = result.environment["machine"]
    peaks = ", ".join(f"{peak.dtype} {three(peak.gops)}" for peak in result.peaks)
    parts = [
        f"{machine['processor']}, {machine['cores']} cores, {', '.join(machine['flags'])}",
        "virtual machine" if machine["virtual"] else "",
        machine["container"] or "",
        f"peak {peaks} Gop/s" if peaks else "",
        *(gpu["name"] for gpu in result.environment["gpus"]),
    ]
    return "; ".join(part for part in parts if part)


def _lines(result: Result) -> Iterator[str]:
    yield "# Benchmark"
    yield ""
    yield environment_line(result)
    yield ""
    yield from (f"- **{note}**" for note in notes_of(result))
    yield ""
    rows = rows_of(result)
    closed = [row for row in rows if row.measurement.case.rate is None]
    yield "| target | what | p50 ms | p90 | p95 | p99 | max | a second (95 %) | times faster (95 %) | of peak | |"
    yield "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---|"
    yield from map(_closed, closed)
    yield ""
    yield f"Times faster: than {result.targets[0].label}, round by round. Intervals: bootstrap over rounds."
    opened = [row for row in rows if row.measurement.case.rate is not None]
    if opened:
        yield ""
        yield "| calls at random | calls a second due | answered | p50 ms | p99 | max | |"
        yield "|---|---:|---:|---:|---:|---:|---|"
        yield from map(_opened, opened)
        yield ""
        yield "Latency counts from the moment that a call was due."
    if result.searches:
        yield ""
        yield "| highest rate | p99 at most | calls a second | trials |"
        yield "|---|---:|---:|---:|"
        for search in result.searches:
            what = f"{search.case.target}, {search.case.what}"
            yield _row((what, f"{search.p99_ms:g} ms", three(search.case.rate or 0.0), str(len(search.trials))))
    yield ""
    yield f"| quality | {' | '.join(head.lower() for head in QUALITY_HEADS)} |"
    yield f"|---|---|{'---:|' * (len(QUALITY_HEADS) - 2)}---|"
    for target in result.targets:
        cells = quality_cells(target.quality)
        verdict = f"**{cells[-1]}**" if cells[-1] == "WRONG" else cells[-1]
        yield _row((target.label, *cells[:-1], verdict))
    yield ""
    packages = ", ".join(f"{name} {version}" for name, version in result.environment["packages"].items())
    told = ", ".join(str(result.environment[key]) for key in ("python", "system"))
    yield f"lrclr {result.environment['lrclr']}, {told}; {packages}."


def _closed(row: Row) -> str:
    each, times = row.measurement, row.measurement.quantiles_ms
    rate = f"{three(each.throughput.value)} {each.case.unit} {_brackets(span(each.throughput))}".strip()
    faster = "" if row.faster is None else f"{three(row.faster.value)} {_brackets(span(row.faster))}".strip()
    share = "" if row.peak_share is None else f"{row.peak_share:.0%}"
    verdict = f"**{row.verdict}**" if row.verdict != "stable" else row.verdict
    return _row(
        (each.case.target, each.case.what, *(three(value) for value in times.values()), rate, faster, share, verdict)
    )


def _opened(row: Row) -> str:
    each, times = row.measurement, row.measurement.quantiles_ms
    what = f"{each.case.target}, {each.case.what}"
    shown = (three(times[name]) for name in ("p50", "p99", "max"))
    answered = each.throughput.value / each.case.items
    return _row(
        (what, three(each.case.rate or 0.0), three(answered), *shown, "" if row.verdict == "stable" else row.verdict)
    )


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _brackets(text: str) -> str:
    return f"({text})" if text else ""
