"""A result as JSON, and as one HTML page with a picture of latency over throughput."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from lrclr._version import __version__
from lrclr.bench import quantiles
from lrclr.reports import (
    BAD,
    DIM,
    EDGE,
    NONE,
    figure_svg,
    number_axis,
    percent,
    render,
    save_report_files,
    series_style,
    significant,
    with_room,
)
from lrclr.tune._result import DRIFT, RESULT, result_json

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from markupsafe import Markup
    from matplotlib.figure import Figure

    from lrclr.tune._result import Row, TuneResult
    from lrclr.tune._windows import Window

REPORTS: Final = (RESULT, "tune.html")
HEADS: Final = ("Configuration", "Files decoded by", "Requests a second", "p99 ms", "Spread", "Windows", "Round", "")
_WIDTH, _HEIGHT = 640, 420


def save_reports(folder: Path, result: TuneResult) -> None:
    """Write ``tune.json`` and ``tune.html``, in place of earlier ones.

    Raises:
        UsageError: the folder holds other files.
        LrclrError: the folder cannot be written; existing files are unchanged.
    """
    save_report_files(folder, dict(zip(REPORTS, (result_json(result), html(result)), strict=True)))


def cells(row: Row) -> tuple[str, ...]:
    """Cells of a row under `HEADS`."""
    last = row.last
    return (
        row.name,
        row.decoding,
        significant(last.rate) if last.rate else NONE,
        significant(last.p99_ms),
        percent(last.spread) if last.rate and len(last.supporting) > 1 else NONE,
        str(len(last.windows)),
        str(row.rounds),
        row.verdict,
    )


def load(result: TuneResult) -> str:
    """The load in words."""
    if result.callers is None:
        return "requests at random times"
    return f"{result.callers} callers, each with one request at a time"


def html(result: TuneResult) -> str:
    """One page with the table and the picture. The same result gives the same bytes."""
    machine = result.environment["machine"]
    return render(
        "tune.html",
        title="Tuning of a server",
        version=__version__,
        sections=[
            ("configurations", "Configurations"),
            ("picture", "Latency over throughput"),
            ("settings", "Settings"),
        ],
        result=result,
        load=load(result),
        most_drift=DRIFT,
        heads=HEADS,
        rows=[(cells(row), place == result.chosen) for place, row in enumerate(result.rows)],
        chart=_latency_over_throughput(result),
        lists=[
            ("Chosen", result.best.settings),
            ("Images", result.images),
            ("Machine", {key: machine[key] for key in ("processor", "cores", "memory_gib", "virtual", "container")}),
            ("Packages", result.environment["packages"]),
        ],
        failures=[f"{row.name}: {row.last.failure}" for row in result.rows if row.last.failure is not None],
    )


def _latency_over_throughput(result: TuneResult) -> Markup:
    """Every window: rate and 99th percentile. The chosen configuration and the default have colours, and a line through
    the windows of their last round.
    """
    names = {result.chosen: "chosen", result.default: "default"}
    if result.chosen == result.default:
        names = {result.default: "default, chosen"}
    points = {place: _points(row) for place, row in enumerate(result.rows)}
    every = [point for each in points.values() for point in each]

    def draw(figure: Figure) -> None:
        axes = figure.add_axes((64 / _WIDTH, 46 / _HEIGHT, 1 - 84 / _WIDTH, 1 - 100 / _HEIGHT))
        x_limits = with_room([x for x, _ in every] or [1.0])
        y_limits = with_room([*(y for _, y in every), result.p99_ms])
        axes.set(xscale="log", yscale="log", xlim=x_limits, ylim=y_limits, xlabel="requests a second")
        axes.set_title("p99, ms", loc="left", fontsize=11, x=-0.08, pad=6)
        number_axis(axes.xaxis, *x_limits)
        number_axis(axes.yaxis, *y_limits)
        axes.axhline(result.p99_ms, color=BAD, linewidth=1.2, linestyle="--")
        axes.annotate(
            f"limit {result.p99_ms:g} ms", (x_limits[1], result.p99_ms), (0, 4), textcoords="offset points",
            ha="right", color=BAD,
        )  # fmt: skip
        for place, own in points.items():
            if place not in names and own:
                axes.plot(*zip(*own, strict=True), linestyle="none", marker="o", markersize=3, color=EDGE)
        axes.plot([], [], linestyle="none", marker="o", markersize=3, color=EDGE, label="others")
        for number, place in enumerate(sorted(names, reverse=True)):
            own, style = points[place], series_style(number)
            if own:
                axes.plot(*zip(*own, strict=True), linestyle="none", markersize=6, clip_on=False, **style)
            if curve := _curve(result.rows[place]):
                axes.plot(*zip(*curve, strict=True), color=style["color"], linewidth=1.2)
            axes.plot(
                [], [], linestyle="none", markersize=6, label=f"{names[place]}: {result.rows[place].name}", **style
            )
        axes.legend(loc="lower left", bbox_to_anchor=(0.1, 1.0), ncols=1, borderaxespad=0.0, labelspacing=0.2)
        axes.tick_params(labelcolor=DIM)

    return figure_svg((_WIDTH, _HEIGHT), "latency-throughput", "99th percentile of the latency over throughput", draw)


def _points(row: Row) -> list[tuple[float, float]]:
    """Rate and 99th percentile of every window with an answer."""
    return [_together([window]) for estimate in row.estimates for window in estimate.windows if window.latency_ms]


def _curve(row: Row) -> list[tuple[float, float]]:
    """As `_points`, of the last round, with all windows at the same rate together, by rate."""
    windows = [window for window in row.last.windows if window.latency_ms]
    rates = sorted({window.offered or 0.0 for window in windows})
    return [_together([window for window in windows if (window.offered or 0.0) == rate]) for rate in rates]


def _together(windows: Sequence[Window]) -> tuple[float, float]:
    """Rate and 99th percentile of windows: the rate that was offered, or the throughput of callers that wait."""
    latency = [value for window in windows for value in window.latency_ms]
    throughput = len(latency) / sum(window.seconds for window in windows)
    return windows[0].offered or throughput, quantiles(latency)["p99"]
