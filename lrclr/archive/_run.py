"""`score`: one row for every image of a source, in a folder of Parquet files."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lrclr._signals import stop_signals_raise
from lrclr.archive._decode import Decoder
from lrclr.archive._encode import Encoder
from lrclr.archive._options import LocalOptions, RayOptions, ScoreProgress, ScoreSummary, damage_text
from lrclr.archive._settings import UNFINISHED_FILE, Settings
from lrclr.archive._source import Source, open_source
from lrclr.errors import LrclrError, UsageError, require_packages
from lrclr.inference import ModelSpec, ScoreCalibration, check_negatives

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lrclr.archive._collect import Collector
    from lrclr.archive._options import ScoreOptions
    from lrclr.archive._outcome import ScoredImage
    from lrclr.archive._plan import PartPlan, Plan
    from lrclr.bundle import Bundle
    from lrclr.text import FindingSet

LOCK_FILE: Final = "_lock"
_SAVE_SECONDS: Final = 2.0
_SAVE_SHARE: Final = 50  # a save that takes a second is followed by 50 seconds of work
_PARTIAL: Final = ".lrclr-*.partial"


def score(
    source: str | os.PathLike[str] | Source,
    output: str | os.PathLike[str],
    options: ScoreOptions,
    *,
    on_progress: Callable[[ScoreProgress], None] | None = None,
    on_scored: Callable[[ScoredImage], None] | None = None,
) -> ScoreSummary:
    """Give every image of a source exactly one row in a folder of Parquet files.

    Rows that exist and are still valid are not computed again. Outcomes are saved every few seconds and when the run is
    interrupted: an exception then has a note (`BaseException.add_note`) with the number of rows that were kept, and the
    next run goes on from there. A killed run loses the outcomes since the last save.

    Args:
        source: see `lrclr.archive._source.open_source`; or what `lrclr.pacs.find_web_images` found.
        output: the folder.
        options: how to score.
        on_progress: called after every few images.
        on_scored: called by the threads that score with each image that got its scores now, before its row is saved.
            Only with the local runner.

    Raises:
        UsageError: the source or the options cannot be used, or the folder holds scores of other settings.
        BundleError: the bundle cannot be used.
        EngineError: the engine failed.
        GateError: with the engine ``"auto"``, none on this machine passes the bundle's gates.
        LrclrError: the disk is full, a file in the folder cannot be read, or another run is writing to the folder.
        MissingExtraError: pyarrow, or Ray where it is needed, is not installed.
    """
    begin = time.monotonic()
    _require(options)
    if on_scored is not None and not isinstance(options.runner, LocalOptions):
        raise UsageError("on_scored needs the local runner", why="other machines score the images")
    from lrclr.archive._collect import Collector
    from lrclr.archive._plan import Plan

    options, _ = options.with_named_engine()
    bundle = options.opened()
    if isinstance(source, Source):
        images = source
    else:
        images = open_source(source, findings=(options.findings or bundle.findings).names)
    folder = Path(os.path.abspath(output))  # noqa: PTH100 - resolve() would replace what a link points to
    settings, encoder, spec = _settings(bundle, options, images)
    if isinstance(options.runner, LocalOptions):
        # Raises before anything is written if the engine cannot be opened.
        _ = encoder.classifier
    settings.settled(folder, rescore=options.rescore)  # nothing is written to a folder that is refused
    with _exclusive_lock(folder), stop_signals_raise():
        settings = settings.settled(folder, rescore=options.rescore)
        # Nothing is written if a part cannot be read.
        survey = _Survey(Plan(images, folder, settings, recheck=options.recheck))
        settings.write(folder)
        unfinished = folder / UNFINISHED_FILE
        unfinished.touch()
        for left in folder.glob(_PARTIAL):
            left.unlink(missing_ok=True)
        decoder = Decoder(images.root, images.container, spec.preprocess, options.frame, options.exact, options.refuse)
        decoder = replace(decoder, remote=images.remote)
        collector = Collector(folder, encoder.findings.names, settings)
        try:
            _work(survey, collector, decoder, encoder, options.runner, on_progress, on_scored)
        except BaseException as error:
            with contextlib.suppress(LrclrError):
                collector.save()
            error.add_note(f"kept {survey.kept + collector.saved} rows; run again to go on")
            if survey.damaged:
                error.add_note(damage_text(survey.damaged))
            raise
        unfinished.unlink(missing_ok=True)
    return ScoreSummary(
        images=len(images.items),
        scored=collector.scored,
        unchanged=collector.unchanged,
        kept=survey.kept,
        gone=survey.gone,
        failures=collector.failures + survey.failures,
        parts=collector.written,
        damaged=survey.damaged,
        unreadable=collector.unreadable,
        replaced=collector.replaced,
        seconds=time.monotonic() - begin,
        fusion_trained=spec.fusion_trained,
        passed_over=images.passed_over,
        exact=options.exact,
    )


class _Survey:
    """The plans of all parts that have something to do, and sums over all parts."""

    def __init__(self, plan: Plan) -> None:
        self.failures: Counter[str] = Counter()
        self.kept = self.gone = self.tasks = self.damaged = 0
        self.parts: list[PartPlan] = []
        for number in plan.numbers():
            part = plan.part(number)
            self.kept += len(part.kept)
            self.gone += len(part.gone)
            self.tasks += len(part.tasks)
            self.damaged += part.damaged
            self.failures += part.failures
            if part.tasks:
                self.parts.append(part)


def _work(
    survey: _Survey,
    collector: Collector,
    decoder: Decoder,
    encoder: Encoder,
    runner: LocalOptions | RayOptions,
    on_progress: Callable[[ScoreProgress], None] | None,
    on_scored: Callable[[ScoredImage], None] | None,
) -> None:
    if not survey.tasks:
        return
    chunks = (chunk for part in survey.parts for chunk in collector.chunks(part))
    if isinstance(runner, RayOptions):
        from lrclr.archive._ray import run_ray

        stream = run_ray(chunks, decoder, encoder, runner)
    else:
        from lrclr.archive._local import run_local

        stream = run_local(chunks, decoder, encoder, workers=runner.workers, on_scored=on_scored)
    begin, done = time.monotonic(), 0
    next_save = begin + _SAVE_SECONDS
    with contextlib.closing(stream):
        for chunk, outcomes in stream:
            collector.take(chunk, outcomes)
            done += len(outcomes)
            now = time.monotonic()
            if now >= next_save:
                collector.save()
                took = time.monotonic() - now
                next_save = now + max(_SAVE_SECONDS, _SAVE_SHARE * took)
            if on_progress is not None:
                on_progress(ScoreProgress(done, survey.tasks, collector.failures, time.monotonic() - begin))
    collector.check_finished()


def _settings(bundle: Bundle, options: ScoreOptions, images: Source) -> tuple[Settings, Encoder, ModelSpec]:
    """What the rows depend on, and the encoder. The bundle is checked; its graphs are opened when first used."""
    spec = ModelSpec.of_bundle(bundle)
    name = options.engine.engine or bundle.manifest.engine["name"]
    engine = replace(options.engine, engine=name, threads=options.engine.threads or 1)
    findings = options.findings or spec.findings
    batch = options.images_at_once(name)
    if batch > spec.max_batch:
        raise UsageError(f"a batch of {batch} is too large", why=f"the bundle takes {spec.max_batch} images")
    # Raise the errors that every worker would raise, before anything is written.
    spec.asked(findings)
    alpha = spec.checked_alpha(spec.alpha if options.alpha is None else options.alpha)
    bundle.tokenizer.encode(findings.prompts)
    for member in bundle.members:
        check_negatives(findings, ScoreCalibration.from_dict(member.manifest.scoring).threshold)
    if options.embeddings:
        spec.require_embeddings()
    settings = Settings(
        bundle=spec.sha256,
        findings=_sha256(findings),
        alpha=alpha,
        frame=options.frame,
        exact=options.exact,
        graph_engine=name if engine.int8_products else f"{name} in float32",
        provider=engine.provider,
        threads=engine.threads or 1,
        batch_size=batch,
        refuse=",".join(sorted(options.refuse)),
        order=None if images.container is None else images.keys_sha256(),
        parts=math.ceil(len(images.items) / options.rows_per_part),
        embeddings=options.embeddings,
        spread=bool(spec.members),
    )
    encoder = Encoder(bundle, spec.sha256, engine, findings, alpha, batch)
    return settings, encoder, spec


def _sha256(findings: FindingSet) -> str:
    content = [[each.name, each.positive, each.negative] for each in findings.findings]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _require(options: ScoreOptions) -> None:
    # The extra "ray" includes the packages of "score".
    packages: tuple[str, ...] = ("pyarrow",)
    extra, purpose = "score", "scoring an archive"
    if isinstance(options.runner, RayOptions):
        packages, extra, purpose = ("pyarrow", "ray", "pandas"), "ray", "scoring with Ray"
    require_packages(extra, packages, purpose)


@contextlib.contextmanager
def _exclusive_lock(folder: Path) -> Iterator[None]:
    """Lock a folder against other runs on this machine. The lock ends with the process."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK_FILE).open("wb")
    except OSError as error:
        raise LrclrError(f"{folder} cannot be written to", why=error.strerror) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in {errno.EAGAIN, errno.EACCES}:
                raise LrclrError(f"{folder} cannot be locked", why=error.strerror) from error
            raise LrclrError(f"another run is writing to {folder}", fix="Wait for it, or stop it.") from error
        yield
