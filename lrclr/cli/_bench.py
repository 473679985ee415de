"""`lrclr bench`, and the command behind a target that is no command."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads annotations
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from lrclr.cli import _bench_compare
from lrclr.cli._checkpoints import Activation, Heads, Key, note_assumed, read_options, require_checkpoint
from lrclr.cli._console import EXACT_HELP, RESEARCH_ONLY, gauge, note, out, print_utf8
from lrclr.cli._extras import require_bench, require_export, require_torch
from lrclr.errors import GateError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lrclr.bench import Reference, Result
    from lrclr.checkpoints import ReadOptions

_MEASURE = "measure"
QUICK_SECONDS, QUICK_ROUNDS, QUICK_RATE = 20.0, 5, "70%"
RATES = "50%,70%,90%"


class _TargetsFirst(TyperGroup):
    """Takes whatever is no command for a target: ``lrclr bench triton_repo`` reads best."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or args[0] not in self.commands:
            args = [_MEASURE, *(args or ["--help"])]
        return super().parse_args(ctx, args)


app = typer.Typer(cls=_TargetsFirst, add_completion=False, rich_markup_mode=None)
app.command("compare")(_bench_compare.compare)


@app.command(_MEASURE, epilog="`lrclr bench compare A B` compares two results; see `lrclr bench compare --help`.")
def measure(  # noqa: PLR0913, PLR0917 - one parameter an option
    targets: Annotated[
        list[str], typer.Argument(metavar="TARGET...", help="Bundles, checkpoints, `default`, HOST:PORT of servers.")
    ],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write JSON, Markdown, HTML there.")] = None,
    stages: Annotated[
        str | None,
        typer.Option("--what", help="image_encoder, text_encoder, fusion_head, classifier, files; all if not given."),
    ] = None,
    batch: Annotated[str, typer.Option("--batch", help="Images a call.")] = "1,8",
    prompts: Annotated[str | None, typer.Option("--prompts", help="Prompts, even; the model's own.")] = None,
    concurrency: Annotated[str, typer.Option("--concurrency", help="Callers at once, of whole programs.")] = "1,2",
    rate: Annotated[
        str | None, typer.Option("--rate", help="Calls at random: a second, or % of capacity, or none; 50%,70%,90%.")
    ] = None,
    p99: Annotated[
        float | None, typer.Option("--p99", help="Find the highest rate whose p99 is below so many ms.")
    ] = None,
    reference: Annotated[
        str | None, typer.Option("--reference", help="Checkpoint or bundle that answers are held against.")
    ] = None,
    engine: Annotated[str | None, typer.Option("--engine", help="Engines of bundles, by commas.")] = None,
    provider: Annotated[str, typer.Option("--provider", help="cpu or cuda.")] = "cpu",
    threads: Annotated[int | None, typer.Option("--threads", help="Threads of one operator; one a core.")] = None,
    heads: Heads = None,
    activation: Activation = None,
    key: Key = None,
    shared_memory: Annotated[bool, typer.Option("--shared-memory", help="Ask servers by shared memory too.")] = False,
    files: Annotated[
        list[Path] | None, typer.Option("--file", help="An image, or a folder of them; may be repeated.")
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help=EXACT_HELP)] = False,
    seconds: Annotated[float | None, typer.Option("--seconds", help="Time to measure in, about; 120.")] = None,
    rounds: Annotated[int | None, typer.Option("--rounds", help="Turns of every configuration; 10.")] = None,
    stability: Annotated[str, typer.Option("--stability", help="How far calm windows may differ.")] = "10%",
    quick: Annotated[bool, typer.Option("--quick", help="20 seconds, 5 rounds: a first look.")] = False,
    no_peak: Annotated[bool, typer.Option("--no-peak", help="Leave the machine's peak out.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Measure how fast models answer, and how right: graphs, pixels to findings, files to findings, under load.

    Ctrl-C keeps the rounds that are whole, and ends with 130. Exit code 3: answers are wrong, however fast.
    """
    require_bench()
    shares, rates = _rates(rate or (QUICK_RATE if quick else RATES))
    from lrclr.bench import (
        STAGES,
        BenchOptions,
        OpenOptions,
        ProgressCallbacks,
        bench,
        open_targets,
        reference_from,
        save_reports,
    )
    from lrclr.bench._reports import check_folder

    options = BenchOptions(
        stages=STAGES if stages is None else _list("--what", stages, str),
        batches=_list("--batch", batch, int),
        prompts=() if prompts is None else _list("--prompts", prompts, int),
        callers=_list("--concurrency", concurrency, int),
        shares=shares,
        rates=rates,
        p99_ms=p99,
        seconds=_given(seconds, QUICK_SECONDS if quick else BenchOptions.seconds),
        rounds=_given(rounds, QUICK_ROUNDS if quick else BenchOptions.rounds),
        tolerance=_share("--stability", stability),
        files=tuple(files or ()),
        exact=exact,
        peaks=not no_peak,
    )
    if output is not None:
        check_folder(output)
    reading = read_options(heads, activation, key)
    _require(targets, reference, reading)
    engines = () if engine is None else _list("--engine", engine, str)
    opening = OpenOptions(engines, provider, threads, shared_memory, reading)
    with gauge("opening") as step, open_targets(targets, opening) as opened:
        held: Reference | None = None if reference is None else reference_from(reference, reading)
        for target in opened:
            note_assumed(target.spec.assumed)
        result = bench(opened, options, reference=held, progress=ProgressCallbacks(step, note))
    if output is not None:
        save_reports(output, result)
    if as_json:
        from lrclr.bench import result_json

        print_utf8(result_json(result))
    else:
        _print(result)
    _finish(result, output)


def _require(targets: Sequence[str], reference: str | None, reading: ReadOptions) -> None:
    from lrclr.auto import is_bundle
    from lrclr.bench._targets import is_server

    is_checkpoint = any(not is_server(target) and not is_bundle(target) for target in targets)
    is_reference = reference is not None and not is_bundle(reference)
    require_checkpoint(reading, any_checkpoint=is_checkpoint or is_reference)
    if is_reference:
        require_export()
    elif is_checkpoint:
        require_torch()


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


def _given(value: float | None, default: float) -> Any:
    # Zero is given too, and refused by the options.
    return default if value is None else value


def _share(option: str, text: str) -> float:
    if not text.endswith("%"):
        raise UsageError(f"{option} must be a percentage, such as 10%")
    return float(_number(option, text[:-1], float)) / 100


def _list(option: str, text: str, kind: Callable[[str], Any]) -> tuple[Any, ...]:
    # Doubles would be measured twice and told apart by nobody.
    return tuple(dict.fromkeys(_number(option, part.strip(), kind) for part in text.split(",")))


def _number(option: str, text: str, kind: Callable[[str], Any]) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise UsageError(f"{option} cannot be {text[:40]!r}", fix="Give numbers, separated by commas.") from None
