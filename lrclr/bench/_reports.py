"""A benchmark as JSON, Markdown and one HTML page."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

from msgspec import structs

from lrclr.bench._case import STAGES
from lrclr.bench._charts import distributions, roofline, throughput_latency
from lrclr.bench._result_file import RESULT, result_json
from lrclr.bench._statistics import QUANTILES, median_interval
from lrclr.bench._view import (
    OPERATOR_HEADS,
    QUALITY_HEADS,
    notes_of,
    operator_rows,
    operator_summary,
    quality_cells,
    rows_of,
)
from lrclr.reports import NONE, render, save_report_files, significant

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from lrclr.bench._compare import ResultComparison
    from lrclr.bench._result import Measurement, Result
    from lrclr.bench._view import Row

REPORTS = (RESULT, "bench.md", "bench.html")


def save_reports(folder: Path, result: Result) -> None:
    """Write ``bench.json``, ``bench.md`` and ``bench.html``, in place of earlier ones.

    Raises:
        UsageError: the folder holds other files.
        LrclrError: the folder cannot be written; existing files are unchanged.
    """
    save_report_files(folder, dict(zip(REPORTS, (result_json(result), markdown(result), html(result)), strict=True)))


def markdown(result: Result) -> str:
    """The figures and their machine as Markdown."""
    return render("bench.md", **_values(result))


def comparison_markdown(comparison: ResultComparison) -> str:
    """A comparison as Markdown, for a pull request."""
    return render("bench_compare.md", comparison=comparison)


def html(result: Result) -> str:
    """One page with every table and chart. The same result gives the same bytes."""
    values = _values(result)
    measurements = [row.measurement for row in (*values["closed"], *values["opened"])]
    series = {target.label: number for number, target in enumerate(result.targets)}
    wrong = [target.label for target in result.wrong]
    latency = [
        (group[0].case.what, distributions(group, series, wrong, f"latency-{place}"))
        for place, group in enumerate(_groups([row.measurement for row in values["closed"]]))
    ]
    curves = [
        (stage.replace("_", " "), throughput_latency(stage, measurements, series, wrong, f"throughput-{stage}"))
        for stage in STAGES
    ]
    throughput = [(heading, chart) for heading, chart in curves if chart is not None]
    roof = roofline(result, series, wrong)
    sections = [
        ("quality", "Quality"),
        ("speed", "Speed"),
        ("latency", "Distribution of latencies"),
        *([("throughput", "Latency over throughput")] if throughput else []),
        *([("load", "Under load")] if values["opened"] or result.searches else []),
        *([("roofline", "Roofline")] if roof is not None else []),
        *([("operators", "Where the time goes")] if values["operators"] else []),
        ("machine", "Use of the machine"),
        ("settings", "Settings and environment"),
    ]
    return render(
        "bench.html",
        **values,
        title=f"Benchmark of {', '.join(target.label for target in result.targets)}",
        sections=sections,
        headline=_headline(result, values["closed"]),
        quantiles=tuple(QUANTILES),
        refusals=[f"{target.label}: {reason}" for target in result.wrong for reason in target.quality.refused],
        auroc_images=max((target.quality.auroc_images for target in result.targets), default=0),
        tolerance=result.settings.get("tolerance", 0),
        latency_charts=latency,
        throughput_charts=throughput,
        roofline_chart=roof,
        bandwidth=result.bandwidth_gbs,
        machine_rows=[(row, _machine_cells(row.measurement)) for row in (*values["closed"], *values["opened"])],
        lists=_lists(result),
    )


def _values(result: Result) -> dict[str, Any]:
    """Values that Markdown and page share."""
    rows = rows_of(result)
    return {
        "version": result.environment["lrclr"],
        "environment": result.environment,
        "machine_line": _machine_line(result),
        "remarks": list(notes_of(result)),
        "closed": [row for row in rows if row.measurement.case.rate is None],
        "opened": [row for row in rows if row.measurement.case.rate is not None],
        "searches": result.searches,
        "base": result.targets[0].label,
        "quality_heads": QUALITY_HEADS,
        "quality_rows": [(target, quality_cells(target.quality)) for target in result.targets],
        "operator_heads": OPERATOR_HEADS,
        "operators": [
            (operator_summary(each), operator_rows(each)) for target in result.targets for each in target.operators
        ],
    }


def _machine_line(result: Result) -> str:
    machine = result.environment["machine"]
    peaks = ", ".join(f"{peak.dtype} {significant(peak.gops)}" for peak in result.peaks)
    parts = [
        f"{machine['processor']}, {machine['cores']} cores, {', '.join(machine['flags'])}",
        "virtual machine" if machine["virtual"] else "",
        machine["container"] or "",
        f"peak {peaks} Gop/s" if peaks else "",
        *(gpu["name"] for gpu in result.environment["gpus"]),
    ]
    return "; ".join(part for part in parts if part)


def _headline(result: Result, closed: Sequence[Row]) -> list[Row]:
    """The classifier at the smallest batch, for the first six targets."""
    smallest = min((each.case.batch for each in result.measurements if each.case.stage == "classifier"), default=0)
    wanted = ("classifier", 1, smallest)
    cases = [(row, row.measurement.case) for row in closed]
    return [row for row, case in cases if (case.stage, case.callers, case.batch) == wanted][:6]


def _machine_cells(measurement: Measurement) -> list[str]:
    """Use of processors, memory and clocks in one case: medians over its rounds."""
    uses = [each.use for each in measurement.rounds]

    def middle(values: Sequence[float | None], form: str) -> str:
        known = [value for value in values if value is not None]
        return format(median_interval(known).value, form) if known else NONE

    return [
        middle([use.process for use in uses], ".0%"),
        middle([use.others for use in uses], ".0%"),
        middle([use.stolen for use in uses], ".1%"),
        middle([use.rss_mib for use in uses], ",.0f"),
        middle([use.mhz for use in uses], ",.0f"),
        middle([use.throttled for use in uses], ".0f"),
        middle([use.gpu.busy for use in uses if use.gpu], ".0%"),
        middle([use.gpu.mhz for use in uses if use.gpu], ",.0f"),
    ]


def _lists(result: Result) -> list[tuple[str, dict[str, Any]]]:
    shown: list[tuple[str, dict[str, Any]]] = [("Measured", result.settings)]
    for target in result.targets:
        facts = {
            **structs.asdict(target),
            "threads": target.threads or "the engine’s choice",
            "network": None if target.network is None else structs.asdict(target.network),
        }
        for shown_elsewhere in ("label", "kind", "quality", "operators"):
            del facts[shown_elsewhere]
        shown.append((target.label, facts))
    own = dict(result.environment)
    packages, machine = own.pop("packages"), own.pop("machine")
    return [*shown, ("Machine", machine), ("System", own), ("Packages", packages)]


def _groups(measurements: Sequence[Measurement]) -> list[list[Measurement]]:
    """Measurements grouped by case, in the order of the first of each."""
    order = {key: place for place, key in reversed(list(enumerate(each.case.key for each in measurements)))}
    ordered = sorted(measurements, key=lambda each: order[each.case.key])
    return [list(group) for _, group in groupby(ordered, key=lambda each: each.case.key)]
