"""`lrclr bench`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from lrclr.cli import _bench_compare
from lrclr.cli._checkpoints import Activation, Heads, Key, note_assumed, read_options, require_checkpoint
from lrclr.cli._console import RESEARCH_ONLY, Exact, TlsRoot, gauge, note, out, print_utf8
from lrclr.cli._extras import require
from lrclr.contract import MODEL
from lrclr.errors import GateError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lrclr.bench import Reference, Result
    from lrclr.checkpoints import ReadOptions

_MEASURE = "measure"


class _TargetsFirst(TyperGroup):
    """A group whose first argument may be a target: ``lrclr bench triton_repo``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or args[0] not in self.commands:
            args = [_MEASURE, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(cls=_TargetsFirst, add_completion=False, rich_markup_mode=None)
app.command("compare")(_bench_compare.compare)


@app.command(_MEASURE, epilog="`lrclr bench compare A B` compares two results; see `lrclr bench compare --help`.")
def measure(  # noqa: PLR0913, PLR0917 - one parameter an option
    targets: Annotated[
        list[str], typer.Argument(metavar="TARGET", help="Bundles, checkpoints, `default`, or HOST:PORT of servers.")
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write bench.json, .md and .html into this folder.")
    ] = None,
    stages: Annotated[
        str | None,
        typer.Option(
            "--what", help="Any of image_encoder, text_encoder, fusion_head, classifier and files.  [default: all]"
        ),
    ] = None,
    batch: Annotated[str | None, typer.Option("--batch", help="Images per call.  [default: 1,8]")] = None,
    prompts: Annotated[
        str | None,
        typer.Option("--prompts", help="Numbers of prompts, even.  [default: those of the model's findings]"),
    ] = None,
    concurrency: Annotated[
        str | None, typer.Option("--concurrency", help="Concurrent callers of classifier and files.  [default: 1,2]")
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option(
            "--rate",
            help="Rates of calls at random times: calls per second, % of capacity, or none.  [default: 50%,70%,90%]",
        ),
    ] = None,
    p99: Annotated[
        float | None,
        typer.Option(
            "--p99", help="Find the highest rate of calls with a 99th percentile of latency below this, in ms."
        ),
    ] = None,
    reference: Annotated[
        str | None, typer.Option("--reference", help="Checkpoint or bundle to compare the answers with.")
    ] = None,
    engine: Annotated[str | None, typer.Option("--engine", help="Engines of bundles, separated by commas.")] = None,
    provider: Annotated[str, typer.Option("--provider", help="cpu or cuda.")] = "cpu",
    threads: Annotated[
        int | None, typer.Option("--threads", help="Threads of one operator.  [default: one per core]")
    ] = None,
    heads: Heads = None,
    activation: Activation = None,
    key: Key = None,
    model_name: Annotated[
        str,
        typer.Option(
            "--model-name", help="Name of the servers' model: PREFIXlrclr for a bundle with --name-prefix PREFIX."
        ),
    ] = MODEL,
    shared_memory: Annotated[
        bool, typer.Option("--shared-memory", help="Also measure servers with shared memory.")
    ] = False,
    tls_root: TlsRoot = None,
    files: Annotated[
        list[Path] | None, typer.Option("--file", help="An image, or a folder of images. May be repeated.")
    ] = None,
    exact: Exact = False,
    seconds: Annotated[
        float | None, typer.Option("--seconds", help="Approximate seconds to measure.  [default: 120]")
    ] = None,
    rounds: Annotated[
        int | None, typer.Option("--rounds", help="Time windows of each configuration.  [default: 10]")
    ] = None,
    stability: Annotated[
        str, typer.Option("--stability", help="Largest relative difference between windows of a stable configuration.")
    ] = "10%",
    quick: Annotated[
        bool, typer.Option("--quick", help="A first look in half a minute: classifier and files, one caller.")
    ] = False,
    no_peak: Annotated[bool, typer.Option("--no-peak", help="Do not measure the machine's peak performance.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Measure speed and quality of models: graphs, pixels to findings, files to findings, and under load.

    Ctrl-C keeps the complete rounds, and ends with exit code 130. Exit code 3: answers are wrong.
    """
    require("bench")
    from dataclasses import replace

    from lrclr.bench import BenchCallbacks, BenchOptions, OpenOptions, bench, open_targets, reference_from, save_reports
    from lrclr.bench._reports import REPORTS
    from lrclr.reports import check_report_folder

    usual = BenchOptions.quick() if quick else BenchOptions()
    shares, rates = (usual.shares, ()) if rate is None else _rates(rate)
    options = replace(
        usual,
        stages=usual.stages if stages is None else _list("--what", stages, str),
        batches=usual.batches if batch is None else _list("--batch", batch, int),
        prompts=() if prompts is None else _list("--prompts", prompts, int),
        callers=usual.callers if concurrency is None else _list("--concurrency", concurrency, int),
        shares=shares,
        rates=rates,
        p99_ms=p99,
        seconds=usual.seconds if seconds is None else seconds,
        rounds=usual.rounds if rounds is None else rounds,
        tolerance=_share("--stability", stability),
        files=tuple(files or ()),
        exact=exact,
        peaks=usual.peaks and not no_peak,
    )
    if output is not None:
        check_report_folder(output, REPORTS)
    reading = read_options(heads, activation, key)
    _require(targets, reference, reading)
    engines = () if engine is None else _list("--engine", engine, str)
    opening = OpenOptions(engines, provider, threads, shared_memory, reading, model_name, tls_root)
    with gauge("opening") as step, open_targets(targets, opening) as opened:
        compared: Reference | None = None if reference is None else reference_from(reference, reading)
        for target in opened:
            note_assumed(target.spec.assumed)
        result = bench(opened, options, reference=compared, callbacks=BenchCallbacks(step, note))
    if as_json:
        from lrclr.bench import result_json

        print_utf8(result_json(result))
    else:
        _print(result)
    if output is not None:
        save_reports(output, result)
    _finish(result, output)


def _require(targets: Sequence[str], reference: str | None, reading: ReadOptions) -> None:
    from lrclr.auto import is_bundle
    from lrclr.bench._targets import is_server

    is_checkpoint = any(not is_server(target) and not is_bundle(target) for target in targets)
    is_reference = reference is not None and not is_bundle(reference)
    require_checkpoint(reading, any_checkpoint=is_checkpoint or is_reference)
    if is_reference:
        require("export")
    elif is_checkpoint:
        require("torch")


def _finish(result: Result, output: Path | None) -> None:
    from lrclr.bench._view import notes_of

    for line in notes_of(result):
        note(line)
    if output is not None:
        note(f"reports are in {output}")
    note(RESEARCH_ONLY)
    if not result.complete:
        raise KeyboardInterrupt
    if result.wrong:
        target = result.wrong[0]
        raise GateError(f"the answers of {target.label} are wrong", why=target.quality.refused[0])


def _print(result: Result) -> None:
    from lrclr.cli._bench_tables import tables

    for table in tables(result):
        out().print(table)


def _rates(text: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Shares of capacity, and calls a second."""
    if text == "none":
        return (), ()
    parts = [part.strip() for part in text.split(",")]
    shares = [_share("--rate", part) for part in parts if part.endswith("%")]
    return tuple(shares), tuple(_number("--rate", part, float) for part in parts if not part.endswith("%"))


def _share(option: str, text: str) -> float:
    if not text.endswith("%"):
        raise UsageError(f"{option} must be a percentage, such as 10%")
    return float(_number(option, text[:-1], float)) / 100


def _list(option: str, text: str, kind: Callable[[str], Any]) -> tuple[Any, ...]:
    # Without repeated values, which are not distinguishable.
    return tuple(dict.fromkeys(_number(option, part.strip(), kind) for part in text.split(",")))


def _number(option: str, text: str, kind: Callable[[str], Any]) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise UsageError(f"{option} {text[:40]!r} is not a number", fix="Give numbers, separated by commas.") from None
