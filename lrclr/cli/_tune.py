"""`lrclr tune`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lrclr.cli._console import Exact, ServerProgram, gauge, new_table, note, out, print_utf8
from lrclr.cli._extras import require

if TYPE_CHECKING:
    from rich.table import Table

    from lrclr.tune import TuneResult


def tune(  # noqa: PLR0913 - one parameter an option
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")] = Path("triton_repo"),
    *,
    p99: Annotated[
        float, typer.Option("--p99", help="Milliseconds within which 99 % of the requests must be answered.")
    ],
    callers: Annotated[
        int | None,
        typer.Option(
            "--callers",
            help="Measure this number of callers, each of which waits for its answer.  "
            "[default: requests at random times, at the highest rate within --p99]",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder of the tuned bundle.  [default: BUNDLE itself]")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Measure and report, but write no bundle.")] = False,
    report: Annotated[
        Path, typer.Option("--report", help="Folder for tune.json and tune.html, with a picture.")
    ] = Path("tune-report"),
    decoding: Annotated[
        str, typer.Option("--decoding", help="Where image files are decoded: server, client, or both to try both.")
    ] = "both",
    files: Annotated[
        list[Path] | None,
        typer.Option(
            "--file", help="An image to send, or a folder of images. May be repeated.  [default: sample radiographs]"
        ),
    ] = None,
    exact: Exact = False,
    minutes: Annotated[float, typer.Option("--minutes", help="Approximate minutes that it takes.")] = 8.0,
    server: ServerProgram = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Find the server configuration that answers the most requests within a latency limit.

    Starts real servers, tries instances, threads, batching, and where images are decoded, and keeps the best in the
    bundle. Run it on the machine that serves, without other work on it.

    If no configuration reaches the limit, the bundle is unchanged and the exit code is 3. Ctrl-C leaves the bundle
    unchanged, too.
    """
    require("tune")
    from lrclr.bench import BenchCallbacks
    from lrclr.reports import check_report_folder
    from lrclr.tune import TuneOptions, check_output, keep, result_json, save_reports
    from lrclr.tune import tune as search
    from lrclr.tune._reports import REPORTS

    options = TuneOptions(
        p99,
        callers,
        seconds=60 * minutes,
        decoding=("server", "client") if decoding == "both" else (decoding,),  # type: ignore[arg-type]
        files=tuple(files or ()),
        exact=exact,
        server=server,
    )
    check_report_folder(report, REPORTS)
    if not dry_run:
        check_output(bundle, output)
    with gauge("opening the bundle") as step:
        result = search(bundle, options, callbacks=BenchCallbacks(step, note))
    if as_json:
        print_utf8(result_json(result))
    else:
        out().print(_table(result))
    if result.reached and not dry_run:
        keep(bundle, result, output)
        note(f"{output or bundle}: Triton's configuration for {result.engine} is now: {result.best.name}")
    save_reports(report, result)
    note(f"reports are in {report}")
    result.require_reached()
    _advise(result)
    if dry_run:
        note("the bundle is unchanged: --dry-run")


def _table(result: TuneResult) -> Table:
    from lrclr.tune._reports import HEADS, cells, load

    heads = [head.lower() for head in HEADS]
    table = new_table(f"Within {result.p99_ms:g} ms, {load(result)}", heads[:2], heads[2:7], heads[7:])
    for place, row in enumerate(result.rows):
        table.add_row(*cells(row), style="bold" if place == result.chosen else "")
    return table


def _advise(result: TuneResult) -> None:
    """Say what was chosen, how much is gained, whether it can be trusted, and what clients should send."""
    from lrclr.tune import DRIFT

    best, base = result.best.last, result.base.last
    if result.chosen == result.default:
        note("the default configuration is kept: no other one is better by more than 3 %")
    else:
        gain = f", {best.rate / base.rate:.2f} times the default" if base.rate else ", which the default does not reach"
        note(f"chosen: {result.best.name}: {best.rate:.3g} requests a second{gain}")
    if not (best.stable and base.stable):
        note("the windows of the chosen configuration or of the default disagree: see the column of the verdict")
    if result.drift > DRIFT:
        note(
            f"the default's rate differed by {result.drift:.0%} between rounds: other work disturbed it, or the limit "
            "is at the edge of its rates"
        )
    if result.best.decoding == "client":
        note("measured with pixels that the client prepares: docs/howto/tune.md says how")
