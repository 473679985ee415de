"""`score`: everything in a source gets a row, once, however often the run is stopped."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import importlib.util
import json
import math
import os
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from lrclr._files import _sigterm_raises
from lrclr.archive._decode import Decoder
from lrclr.archive._encode import Encoder
from lrclr.archive._options import LocalOptions, RayOptions, ScoreProgress, ScoreSummary
from lrclr.archive._settings import Settings
from lrclr.archive._source import Source, open_source
from lrclr.bundle import Bundle
from lrclr.engines import EngineOptions
from lrclr.errors import LrclrError, MissingExtraError, UsageError
from lrclr.inference import ModelSpec, ZeroShotClassifier

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping

    from numpy.typing import NDArray

    from lrclr.archive._collect import Collector
    from lrclr.archive._options import ScoreOptions
    from lrclr.archive._outcome import Chunk, Outcome
    from lrclr.archive._plan import PartPlan, Plan
    from lrclr.text import FindingSet

__all__ = ["score"]

LOCK_FILE: Final = "_lock"
_CHUNK: Final = 16
_PARTIAL: Final = ".lrclr-*.partial"


def score(
    source: str | os.PathLike[str] | Source,
    output: str | os.PathLike[str],
    options: ScoreOptions,
    *,
    on_progress: Callable[[ScoreProgress], None] | None = None,
) -> ScoreSummary:
    """Give every image of a source exactly one row in a folder of Parquet files.

    What is there already, and still holds, is not done again. A part is written whole or not at all, so a run may be
    killed at any moment; the next one goes on.

    Args:
        source: see `lrclr.archive._source.open_source`; or what `lrclr.pacs.find_web_images` found.
        output: the folder.
        options: how.
        on_progress: told after every few images.

    Raises:
        UsageError: the source or the options cannot be used, or the folder holds scores of other settings.
        BundleError: the bundle cannot be used.
        EngineError: the engine failed.
        LrclrError: the disk is full, or another run is writing to the folder.
        MissingExtraError: pyarrow, or Ray where it was asked for, is not installed.
    """
    begin = time.monotonic()
    _require(options)
    from lrclr.archive._collect import Collector
    from lrclr.archive._plan import Plan

    images = source if isinstance(source, Source) else open_source(source)
    folder = Path(os.path.abspath(output))  # noqa: PTH100 - resolve() would replace what a link points to
    settings, encoder, spec = _question(options, images)
    if isinstance(options.runner, LocalOptions):
        # An engine that cannot be had is told before anything is written.
        _ = encoder.classifier
    with _only_run(folder), _sigterm_raises():
        settings = settings.settled(folder, rescore=options.rescore)
        settings.write(folder)
        for left in folder.glob(_PARTIAL):
            left.unlink(missing_ok=True)
        decoder = Decoder(images.root, images.container, spec.preprocess, options.frame, options.exact)
        decoder = replace(decoder, remote=images.remote)
        plan = Plan(images, folder, settings, recheck=options.recheck)
        size = settings.batch_size * math.ceil(_CHUNK / settings.batch_size)
        collector = Collector(folder, encoder.findings.names, settings, chunk_size=size)
        surveyed = _Survey(plan)
        _Work(surveyed, collector, options, on_progress).run(decoder, encoder)
    return ScoreSummary(
        images=len(images.items),
        scored=collector.scored,
        unchanged=collector.unchanged,
        kept=surveyed.kept,
        gone=surveyed.gone,
        failures=collector.failures + surveyed.failures,
        parts=collector.written,
        seconds=time.monotonic() - begin,
        fusion_trained=spec.fusion_trained,
        passed_over=images.passed_over,
        exact=options.exact,
    )


class _Survey:
    """Every part compared with what is there, once, before the work begins."""

    def __init__(self, plan: Plan) -> None:
        self.failures: Counter[str] = Counter()
        self.kept = self.gone = self.tasks = 0
        self.parts: list[PartPlan] = []
        for number in plan.numbers():
            part = plan.part(number)
            self.kept += len(part.kept)
            self.gone += len(part.gone)
            self.tasks += len(part.tasks)
            self.failures += part.failures
            if part.tasks:
                self.parts.append(part)


class _Work:
    def __init__(
        self,
        survey: _Survey,
        collector: Collector,
        options: ScoreOptions,
        on_progress: Callable[[ScoreProgress], None] | None,
    ) -> None:
        self._survey, self._collector, self._options = survey, collector, options
        self._on_progress = on_progress

    def run(self, decoder: Decoder, encoder: Encoder) -> None:
        if not self._survey.tasks:
            return
        begin, done = time.monotonic(), 0
        with contextlib.closing(self._stream(decoder, encoder)) as stream:
            for chunk, outcomes in stream:
                self._collector.take(chunk, outcomes)
                done += len(outcomes)
                if self._on_progress is not None:
                    failures = self._collector.failures
                    self._on_progress(ScoreProgress(done, self._survey.tasks, failures, time.monotonic() - begin))
        self._collector.check_finished()

    def _chunks(self) -> Iterator[Chunk]:
        for part in self._survey.parts:
            yield from self._collector.chunks(part)

    def _stream(self, decoder: Decoder, encoder: Encoder) -> Generator[tuple[Chunk, list[Outcome]]]:
        runner = self._options.runner
        if isinstance(runner, RayOptions):
            from lrclr.archive._ray import run_ray

            return run_ray(list(self._chunks()), decoder, encoder, runner)
        from lrclr.archive._local import run_local

        return run_local(self._chunks(), decoder, encoder, workers=runner.workers)


def _question(options: ScoreOptions, images: Source) -> tuple[Settings, Encoder, ModelSpec]:
    """What rows depend on, and what answers. The bundle is checked; its graphs are opened when first used."""
    bundle = Bundle(options.bundle)
    spec = ModelSpec.of_bundle(bundle)
    name = options.engine.engine or bundle.manifest.engine["name"]
    engine = EngineOptions(name, options.engine.provider, options.engine.threads or 1)
    findings = options.findings or spec.findings
    batch = options.images_at_once(name)
    if batch > spec.max_batch:
        raise UsageError(f"a batch of {batch} is too large", why=f"the bundle takes {spec.max_batch} images")
    alpha = spec.alpha if options.alpha is None else options.alpha
    _check_question(bundle, findings, alpha)
    settings = Settings(
        bundle=spec.sha256,
        findings=_sha256(findings),
        alpha=alpha,
        frame=options.frame,
        exact=options.exact,
        graph_engine=name,
        provider=engine.provider,
        threads=engine.threads or 1,
        batch_size=batch,
        order=None if images.container is None else images.keys_sha256(),
        parts=math.ceil(len(images.items) / options.rows_per_part),
    )
    encoder = Encoder(Path(options.bundle).absolute(), spec.sha256, engine, findings, alpha, batch)
    return settings, encoder, spec


class _UnusedEngine:
    """Takes the place of an engine where no image is asked about: the engine may need a GPU that is not here."""

    name = "none"

    def run(self, graph: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        raise NotImplementedError


def _check_question(bundle: Bundle, findings: FindingSet, alpha: float) -> None:
    """Refuse here what every actor would refuse, before anything is written."""
    side = bundle.preprocess.image_size
    unused = ZeroShotClassifier(bundle, _UnusedEngine())
    unused.predict_pixels(np.empty((0, 3, side, side), np.float32), (), findings, alpha)
    bundle.tokenizer.encode(findings.prompts)


def _sha256(findings: FindingSet) -> str:
    content = [[each.name, each.positive, each.negative] for each in findings.findings]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _require(options: ScoreOptions) -> None:
    # The extra for Ray brings the other's packages, too.
    packages: tuple[str, ...] = ("pyarrow",)
    extra, purpose = "score", "scoring an archive"
    if isinstance(options.runner, RayOptions):
        packages, extra, purpose = ("pyarrow", "ray", "pandas"), "ray", "scoring with Ray"
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, extra, purpose)


@contextlib.contextmanager
def _only_run(folder: Path) -> Iterator[None]:
    """Hold a folder against other runs on this machine; the system lets go of it when the process ends, however."""
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
