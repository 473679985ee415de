"""`lrclr score`."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from lrclr.cli import _dicom_results, _pacs
from lrclr.cli._console import (
    REFUSE_HELP,
    RESEARCH_ONLY,
    EngineName,
    Exact,
    Findings,
    Frame,
    err,
    note,
    note_failures,
    out,
    print_json,
)
from lrclr.errors import LrclrError, UsageError

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Iterator

    from lrclr.archive import LocalOptions, RayOptions, ScoreProgress, ScoreSummary

_RUNNERS = ("local", "ray")
_LINE_EVERY = 30.0  # seconds, if stderr is not a terminal


def score(  # noqa: PLR0913, PLR0917 - one parameter an option
    source: Annotated[
        str,
        typer.Argument(
            help="A folder, a glob pattern in quotes, a dataset (.csv, .jsonl), a Parquet file or a DICOMweb URL."
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the scores, in Parquet files.")],
    bundle: Annotated[Path, typer.Option("-b", "--bundle", help="Folder of the bundle.")] = Path("triton_repo"),
    runner: Annotated[
        str | None, typer.Option("--runner", help="local: in this process; or ray: on a Ray cluster.  [default: local]")
    ] = None,
    engine: EngineName = None,
    graph_engine: Annotated[str | None, typer.Option("--graph-engine", hidden=True)] = None,
    provider: Annotated[str, typer.Option("--provider", help="cpu or cuda.")] = "cpu",
    threads: Annotated[
        int, typer.Option("--threads", help="Threads of one operator. Scores may differ in the last digits.")
    ] = 1,
    findings: Findings = None,
    alpha: Annotated[float | None, typer.Option("--alpha", help="Weight of the local score, 0 to 1.")] = None,
    frame: Frame = None,
    exact: Exact = False,
    refuse: Annotated[list[str] | None, typer.Option("--refuse", metavar="CODES", help=REFUSE_HELP)] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", help="Images per batch.  [default: 1 on a CPU, 32 on a GPU]")
    ] = None,
    rows_per_part: Annotated[int, typer.Option("--rows-per-part", help="Approximate number of rows per file.")] = 2048,
    rescore: Annotated[
        bool, typer.Option("--rescore", help="Score everything again if the folder has other settings.")
    ] = False,
    recheck: Annotated[
        bool, typer.Option("--recheck", help="Hash every file again, not only those with another size or time.")
    ] = False,
    embeddings: Annotated[
        bool, typer.Option("--embeddings", help="Add a column with the embedding of each image.")
    ] = False,
    workers: Annotated[int | None, typer.Option("--workers", help="local: threads.  [default: one per core]")] = None,
    address: Annotated[
        str | None, typer.Option("--address", help="ray: HOST:PORT of a cluster, or auto.  [default: start one here]")
    ] = None,
    actors: Annotated[
        int | None, typer.Option("--actors", help="ray: processes with an engine.  [default: as many as fit]")
    ] = None,
    actor_cpus: Annotated[
        float | None, typer.Option("--actor-cpus", help="ray: cores per actor.  [default: 0.75]")
    ] = None,
    actor_gpus: Annotated[
        float | None, typer.Option("--actor-gpus", help="ray: GPUs per actor; may be a fraction.")
    ] = None,
    decode_cpus: Annotated[
        float | None, typer.Option("--decode-cpus", help="ray: cores per decoding task.  [default: 0.25]")
    ] = None,
    query: Annotated[
        list[str] | None, typer.Option("--query", help="DICOMweb: KEYWORD=VALUE, such as Modality=DX. May be repeated.")
    ] = None,
    sr: _dicom_results.Sr = None,
    sc: _dicom_results.Sc = None,
    gsps: _dicom_results.Gsps = None,
    store: _pacs.Store = None,
    kinds: _pacs.Kinds = None,
    token_file: _pacs.TokenFile = None,
    ca_file: _pacs.CaFile = None,
    allow_http: _pacs.AllowHttp = False,
    ae_title: _pacs.AeTitle = "LRCLR",
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Score an archive: one row for every image, in Parquet files. Interrupted runs can be continued: run it again.

    An image that cannot be read has a row with the reason, and the exit code is 1.
    """
    from lrclr.archive import LocalOptions, ScoreOptions
    from lrclr.archive import score as score_source
    from lrclr.bundle import Bundle
    from lrclr.cli._findings import load_findings, naming_file
    from lrclr.engines import EngineOptions
    from lrclr.input_checks import known_codes

    runner, engine = _current_names(runner, engine, graph_engine)
    ray = {
        "address": address,
        "actors": actors,
        "actor_cpus": actor_cpus,
        "actor_gpus": actor_gpus,
        "decode_cpus": decode_cpus,
    }
    model: Path | Bundle = bundle
    chosen = None
    if findings is not None:
        model = Bundle(bundle)
        chosen = load_findings(findings, model.findings, model.tokenizer)
    options = ScoreOptions(
        bundle=model,
        findings=chosen,
        alpha=alpha,
        frame=frame,
        exact=exact,
        refuse=known_codes(*refuse) if refuse else frozenset(),
        engine=EngineOptions(engine, provider, threads),
        batch_size=batch_size,
        rows_per_part=rows_per_part,
        rescore=rescore,
        recheck=recheck,
        embeddings=embeddings,
        runner=_runner(runner, workers, {name: value for name, value in ray.items() if value is not None}),
    )
    folders = _dicom_results.chosen(sr, sc, gsps)
    pacs = _pacs.Pacs(folders, store, kinds, token_file, ca_file, allow_http, ae_title=ae_title)
    pacs.check()
    images = pacs.source(source, query or [])
    if _pacs.is_empty(images):
        note("no image matches the query")
        return
    options, choice = options.with_named_engine()
    if choice is not None:
        note(choice)
    results = pacs.results(images, output, options)
    # Results for what a Ray cluster scores are made afterwards, as for rows from a run before.
    on_scored = results.take if results is not None and isinstance(options.runner, LocalOptions) else None
    try:
        with _progress() as on_progress, naming_file(findings):
            summary = score_source(
                images if results is None else results.source,
                output,
                options,
                on_progress=on_progress,
                on_scored=on_scored,
            )
    except BaseException as error:
        for text in getattr(error, "__notes__", ()):
            note(text)
        raise
    results_summary = pacs.finish(results)
    if as_json:
        print_json(summary.to_dict())
    else:
        _print(output, summary)
    note(RESEARCH_ONLY)
    if summary.failed:
        raise LrclrError(
            f"{summary.failed} of {summary.images} images have no scores", why="their rows give the reasons"
        )
    if summary.unreadable:
        raise LrclrError(
            f"{summary.unreadable} of {summary.images} images cannot be read now",
            why="their earlier rows are kept",
            fix="Make them readable, and run again.",
        )
    pacs.check_results(results_summary)


def _current_names(runner: str | None, engine: str | None, graph_engine: str | None) -> tuple[str, str | None]:
    """The runner and the engine, also from the former names of these options."""
    if engine in _RUNNERS:
        if runner is not None:
            raise UsageError(f"--runner {runner} contradicts --engine {engine}", fix="Leave --engine out.")
        note(f"--engine {engine} is now called --runner {engine}")
        runner, engine = engine, None
    if graph_engine is not None:
        if engine is not None:
            raise UsageError("--engine and --graph-engine are the same option", fix="Leave --graph-engine out.")
        note(f"--graph-engine {graph_engine} is now called --engine {graph_engine}")
        engine = graph_engine
    return runner or "local", engine


def _runner(name: str, workers: int | None, ray: dict[str, object]) -> LocalOptions | RayOptions:
    from lrclr.archive import LocalOptions, RayOptions

    if name not in _RUNNERS:
        raise UsageError(f"unknown runner {name!r}", fix=f"Choose {' or '.join(_RUNNERS)}.")
    if name == "ray":
        if workers is not None:
            raise UsageError("--workers is an option of --runner local", fix="Give --actors.")
        return RayOptions(**ray)  # type: ignore[arg-type]
    if ray:
        raise UsageError(f"--{next(iter(ray)).replace('_', '-')} is an option of --runner ray")
    return LocalOptions(workers)


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[ScoreProgress], None]]:
    """A progress bar if stderr is a terminal, else a line every 30 seconds."""
    console = err()
    if not console.is_terminal:
        last = time.monotonic()

        def line(progress: ScoreProgress) -> None:
            nonlocal last
            if time.monotonic() - last >= _LINE_EVERY:
                last = time.monotonic()
                note(f"{progress.done} of {progress.total} images, {_pace(progress)}{_reasons(progress.failures)}")

        yield line
        return
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=None)

        def update(progress: ScoreProgress) -> None:
            text = f"{_pace(progress)}{_reasons(progress.failures)}"
            bar.update(task, completed=progress.done, total=progress.total, description=text)

        yield update


def _pace(progress: ScoreProgress) -> str:
    left = progress.seconds_left
    return f"{progress.rate:.1f} a second" + (f", {_span(left)} left" if left is not None else "")


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"


def _reasons(failures: Counter[str]) -> str:
    if not failures:
        return ""
    shown = [f"{count} × {reason[:60]}" for reason, count in failures.most_common(2)]
    return f"; {sum(failures.values())} failed ({'; '.join(shown)}{'; …' if len(failures) > 2 else ''})"


def _print(output: Path, summary: ScoreSummary) -> None:
    from lrclr.archive._options import damage_text
    from lrclr.images import describe_passed_over

    rate = f", {summary.scored / summary.seconds:.1f} a second" if summary.scored and summary.seconds else ""
    out().print(f"{output}: {summary.images} images, {summary.images - summary.failed} with scores")
    out().print(f"scored now: {summary.scored} in {_span(summary.seconds)}{rate}; parts written: {summary.parts}")
    out().print(f"unchanged: {summary.kept} by size and times, {summary.unchanged} by hash")
    if summary.gone:
        note(f"{summary.gone} rows of images that are no longer in the source are kept")
    if summary.unreadable and summary.failed:  # else the error says it
        note(f"{summary.unreadable} images cannot be read now; their earlier rows are kept")
    if summary.replaced:
        note(f"{summary.replaced} rows of the same names were replaced: the images have another content now")
    if summary.damaged:
        note(damage_text(summary.damaged))
    if passed_over := describe_passed_over(summary.passed_over):
        note(passed_over)
    note_failures(summary.failures)
    if not summary.fusion_trained:
        note("the fusion head is not trained: alpha = 0, and region attention has no meaning")
