"""Runs a benchmark on opened targets."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from lrclr.bench._case import Case
from lrclr.bench._closed import closed_window
from lrclr.bench._environment import environment
from lrclr.bench._interleave import shuffled_rounds
from lrclr.bench._load import LOAD_ROUNDS, load_rounds, searched
from lrclr.bench._options import BenchOptions
from lrclr.bench._peak import measure_peaks
from lrclr.bench._quality import Reference, measure_quality, own_references
from lrclr.bench._result import Measurement, Peak, Result, Round, Search, TargetInfo
from lrclr.bench._stages import Files, work_of
from lrclr.bench._statistics import quantiles, settled
from lrclr.bench._use import Meter
from lrclr.errors import LrclrError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lrclr.bench._closed import Work
    from lrclr.bench._targets import Target

__all__ = ["bench"]

CALM_WINDOWS: Final = 3
"""Number of successive warm-up windows that must be alike."""
MOST_WINDOWS: Final = 12
"""Largest number of warm-up windows. After it a case is measured without a steady state, and marked unstable."""
LEAST_ROUNDS: Final = 5
_OPEN_SHARE: Final = 0.3  # of the time, for the open loop
_WINDOW: Final = (0.05, 2.0)  # seconds
_PEAK_SECONDS: Final = 0.6


@dataclass
class ProgressCallbacks:
    """Progress callbacks. The default implementation does nothing.

    Attributes:
        step: called with the current step, and the share of the work that is done.
        note: called with information for the user.
    """

    step: Callable[[str, float], None] = lambda _text, _share: None
    note: Callable[[str], None] = lambda _text: None


@dataclass
class _State:
    """The measurements so far."""

    infos: list[TargetInfo] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)
    searches: list[Search] = field(default_factory=list)
    peaks: tuple[Peak, ...] = ()
    bandwidth: float | None = None
    left_out: list[tuple[str, str]] = field(default_factory=list)
    complete: bool = True


@dataclass
class _Running:
    """A case that is being measured."""

    case: Case
    work: Work
    seconds: float  # approximate time of one call
    warmup: list[float] = field(default_factory=list)
    rounds: list[Round] = field(default_factory=list)


def bench(
    targets: Sequence[Target],
    options: BenchOptions | None = None,
    *,
    reference: Reference | None = None,
    progress: ProgressCallbacks | None = None,
) -> Result:
    """Measure the correctness and then the speed of targets, in turns.

    After an interrupt (Ctrl-C), complete rounds are kept, and the result is marked as incomplete. An interrupt before
    the first complete round is raised.

    Args:
        targets: from `open_targets`.
        options: what to measure.
        reference: reference of every target; by default each bundle's golden data.
        progress: progress callbacks.

    Raises:
        LrclrError: no case could be measured. The error gives the first reason.
    """
    options, progress = options or BenchOptions(), progress or ProgressCallbacks()
    files, state = Files.read(options.files, exact=options.exact), _State()
    running: list[_Running] = []
    try:
        if options.peaks:
            progress.step("the machine’s peak", 0.0)
            state.peaks, state.bandwidth = measure_peaks(_PEAK_SECONDS)
        references = own_references(targets)
        for target in targets:
            progress.step(f"quality of {target.info.label}", 0.0)
            own = reference or references.get(target.spec.sha256)
            state.infos.append(replace(target.info, quality=measure_quality(target, own)))
        running = _prepared(targets, options, files, reference, references, state)
        if not running:
            raise LrclrError("nothing could be measured", why=state.left_out[0][1])
        share = _closed(running, options, progress)
        state.measurements = _measured(running, options)
        rest = ProgressCallbacks(lambda text, part: progress.step(text, share + (1 - share) * part), progress.note)
        _opened(targets, running, options, state, rest)
    except KeyboardInterrupt:
        if not any(one.rounds for one in running):
            raise
        state.complete = False
        state.measurements = state.measurements or _measured(running, options)
    return Result(
        environment=environment(),
        settings={**options.to_dict(), "input": files.describe()},
        targets=tuple(state.infos),
        measurements=tuple(state.measurements),
        searches=tuple(state.searches),
        peaks=state.peaks,
        bandwidth_gbs=state.bandwidth,
        left_out=tuple(state.left_out),
        complete=state.complete,
    )


def cases_of(target: Target, options: BenchOptions) -> list[Case]:
    """The cases of a target in closed loop."""
    own = len(target.spec.findings.prompts)
    found = []
    for stage in options.stages:
        batches = (0,) if stage == "text_encoder" else options.batches
        prompts = (0,) if stage == "image_encoder" else options.prompts or (own,)
        # Several callers are measured for a program as a whole, not for a single graph.
        callers = options.callers if stage in {"classifier", "files"} else (1,)
        found += [
            Case(target.info.label, stage, batch, count, at_once)
            for batch in batches
            for count in prompts
            for at_once in callers
        ]
    return found


def _prepared(
    targets: Sequence[Target],
    options: BenchOptions,
    files: Files,
    reference: Reference | None,
    references: dict[str, Reference],
    state: _State,
) -> list[_Running]:
    """Every case that its target supports, after two calls. The second call gives the time of a call."""
    found = []
    for target in targets:
        own = reference or references.get(target.spec.sha256)
        for case in cases_of(target, options):
            try:
                work = work_of(case, target, files, None if own is None else own.golden)
                work(0)
                begin = time.perf_counter()
                work(1)
            except LrclrError as error:
                state.left_out.append((f"{case.target}: {case.what}", str(error)))
                continue
            found.append(_Running(case, work, time.perf_counter() - begin))
    return found


def _closed(running: list[_Running], options: BenchOptions, progress: ProgressCallbacks) -> float:
    """Warm up until every case is steady, and measure the rounds; returns the share of the work that is done then."""
    window, rounds = _plan(running, options)
    turn = sum(max(window, 2 * one.seconds) + one.seconds for one in running)
    least, most = turn * (rounds + CALM_WINDOWS), turn * (rounds + MOST_WINDOWS)
    load = _load_seconds(running, options)
    progress.note(
        f"{len(running)} configurations, {rounds} rounds of {window:.2g} s each: about {_minutes(least + load)}"
        f", up to {_minutes(most + load)} if the speed of the machine varies"
    )
    planned, done = rounds + CALM_WINDOWS, 0
    share = least / (least + load)
    for number in range(MOST_WINDOWS):
        pending = [one for one in running if not _calm(one, options)]
        if not pending:
            break
        for _, place in shuffled_rounds(range(len(pending)), 1, seed=options.seed + 1000 + number):
            one = pending[place]
            progress.step(f"warm-up: {one.case.target}, {one.case.what}", share * done / (planned * len(running)))
            _, latencies = closed_window(one.work, one.case.callers, window)
            one.warmup.append(quantiles(latencies)["p50"])
            done = min(done + 1, CALM_WINDOWS * len(running))
    done = CALM_WINDOWS * len(running)
    held: list[tuple[_Running, Round]] = []
    for number, place in shuffled_rounds(range(len(running)), rounds, seed=options.seed):
        one = running[place]
        text = f"round {number + 1} of {rounds}: {one.case.target}, {one.case.what}"
        progress.step(text, share * done / (planned * len(running)))
        meter = Meter()
        elapsed, latencies = closed_window(one.work, one.case.callers, window)
        held.append((one, Round(elapsed, _microseconds(latencies), meter.stop())))
        done += 1
        # A round is kept when all cases have it, so that an interrupt leaves all cases with the same rounds.
        if len(held) == len(running):
            for each, result in held:
                each.rounds.append(result)
            held = []
    return share


def _plan(running: list[_Running], options: BenchOptions) -> tuple[float, int]:
    """Seconds of a window, and the number of rounds."""
    opened = _OPEN_SHARE if options.shares or options.rates else 0.0
    seconds = options.seconds * (1 - opened)
    rounds = options.rounds
    window = seconds / (len(running) * (rounds + CALM_WINDOWS))
    window = min(max(window, _WINDOW[0]), _WINDOW[1])
    turn = sum(max(window, 2 * one.seconds) + one.seconds for one in running)
    fitting = int(seconds / turn) - CALM_WINDOWS
    return window, min(rounds, max(fitting, min(rounds, LEAST_ROUNDS)))


def _load_seconds(running: Sequence[_Running], options: BenchOptions) -> float:
    """Least time for the open loop."""
    targets = len({one.case.target for one in running if one.case.stage == options.load_stage})
    windows = targets * (len(options.shares) + len(options.rates)) * LOAD_ROUNDS
    return max(_OPEN_SHARE * options.seconds, windows * options.load_seconds) if windows else 0.0


def _calm(one: _Running, options: BenchOptions) -> bool:
    return settled(one.warmup, count=CALM_WINDOWS, tolerance=options.tolerance)


def _measured(running: Sequence[_Running], options: BenchOptions) -> list[Measurement]:
    return [
        Measurement(one.case, _microseconds(one.warmup), _calm(one, options), options.tolerance, tuple(one.rounds))
        for one in running
        if one.rounds
    ]


def _opened(
    targets: Sequence[Target],
    running: Sequence[_Running],
    options: BenchOptions,
    state: _State,
    progress: ProgressCallbacks,
) -> None:
    """Measure the open loop of one stage, with the smallest batch and the model's prompts."""
    loaded = []
    for target in targets:
        own = [
            each
            for each in zip(state.measurements, running, strict=True)
            if each[0].case.target == target.info.label and each[0].case.stage == options.load_stage
        ]
        if own:
            smallest = min(each[0].case.batch for each in own)
            own = [each for each in own if each[0].case.batch == smallest]
            # The most calls per second, with any number of callers.
            best = max(own, key=lambda each: each[0].throughput.value)
            callers = max(best[0].case.callers, 32 if target.client is not None else 1)
            capacity = best[0].throughput.value / best[0].case.items
            loaded.append((replace(best[0].case, callers=callers), best[1].work, capacity))
    seconds = _OPEN_SHARE * options.seconds
    for measurement in load_rounds(loaded, options, seconds, progress.step):
        state.measurements.append(measurement)
    if options.p99_ms is not None:
        for case, work, capacity in loaded:
            progress.step(f"highest rate: {case.target}, {case.what}", 0.99)
            state.searches.append(searched(case, work, capacity, options))


def _microseconds(seconds: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(value * 1e6, 1) for value in seconds)


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"
