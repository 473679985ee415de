"""`bench`: from opened targets to a result."""

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
from lrclr.bench._result import Measurement, OperatorTimes, Peak, Result, Round, Search, TargetInfo
from lrclr.bench._stages import Files, operators_of, work_of
from lrclr.bench._statistics import CALM_WINDOWS, difference, quantiles
from lrclr.bench._use import Meter
from lrclr.errors import LrclrError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lrclr.bench._closed import Work
    from lrclr.bench._targets import Target

LEAST_ROUNDS: Final = 5
_OPEN_SHARE: Final = 0.3  # share of the time for open loop
_WINDOW: Final = (0.05, 2.0)  # seconds
_PEAK_SECONDS: Final = 0.6


@dataclass
class BenchCallbacks:
    """Progress callbacks. The defaults do nothing.

    Attributes:
        step: called with the current step and the share of the whole that is done.
        note: called with information for the user.
    """

    step: Callable[[str, float], None] = lambda _text, _share: None
    note: Callable[[str], None] = lambda _text: None


@dataclass
class _State:
    """Results so far."""

    infos: list[TargetInfo] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)
    searches: list[Search] = field(default_factory=list)
    peaks: tuple[Peak, ...] = ()
    bandwidth: float | None = None
    left_out: list[tuple[str, str]] = field(default_factory=list)
    complete: bool = True


@dataclass
class _Running:
    """A case with its results so far."""

    case: Case
    work: Work
    seconds: float  # of one call
    warmup: list[float] = field(default_factory=list)
    rounds: list[Round] = field(default_factory=list)


def bench(
    targets: Sequence[Target],
    options: BenchOptions | None = None,
    *,
    reference: Reference | None = None,
    callbacks: BenchCallbacks | None = None,
) -> Result:
    """Measure quality, then speed; the configurations take turns.

    After an interrupt (Ctrl-C) the result holds the complete rounds and says that it is not complete. An interrupt
    before the first complete round is raised.

    Args:
        targets: from `open_targets`.
        options: what to measure.
        reference: what the answers of every target are compared with; by default each bundle's golden values.
        callbacks: progress callbacks.

    Raises:
        LrclrError: no configuration could be measured; gives the first reason.
    """
    options, callbacks = options or BenchOptions(), callbacks or BenchCallbacks()
    files, state = Files.read(options.files, exact=options.exact), _State()
    running: list[_Running] = []
    try:
        if options.peaks:
            callbacks.step("the machine’s peak", 0.0)
            state.peaks, state.bandwidth = measure_peaks(_PEAK_SECONDS)
        references = own_references(targets)
        for target in targets:
            callbacks.step(f"quality of {target.info.label}", 0.0)
            own = reference or references.get(target.spec.sha256)
            quality = measure_quality(target, own)
            callbacks.step(f"operators of {target.info.label}", 0.0)
            state.infos.append(
                replace(target.info, quality=quality, operators=_operators(target, options, files, state))
            )
        running = _prepared(targets, options, files, reference, references, state)
        if not running:
            raise LrclrError("no configuration could be measured", why=state.left_out[0][1])
        share = _closed(running, options, callbacks)
        state.measurements = _measured(running, options)
        rest = BenchCallbacks(lambda text, part: callbacks.step(text, share + (1 - share) * part), callbacks.note)
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


def _operators(target: Target, options: BenchOptions, files: Files, state: _State) -> tuple[OperatorTimes, ...]:
    """Where the time of the image encoder goes, and that of the fusion head at the smallest batch."""
    prompts = (options.prompts or (len(target.spec.findings.prompts),))[0]
    cases = [Case(target.info.label, "image_encoder", batch, 0) for batch in options.batches]
    cases.append(Case(target.info.label, "fusion_head", min(options.batches), prompts))
    found = []
    for case in cases:
        try:
            operators = operators_of(case, target, files)
        except LrclrError as error:
            state.left_out.append((f"operators of {case.target}: {case.what}", str(error)))
            continue
        if operators:
            found.append(OperatorTimes(case, operators))
    return tuple(found)


def cases_of(target: Target, options: BenchOptions) -> list[Case]:
    """The cases of a target in closed loop."""
    own = len(target.spec.findings.prompts)
    found = []
    for stage in options.stages:
        batches = (0,) if stage == "text_encoder" else options.batches
        prompts = (0,) if stage == "image_encoder" else options.prompts or (own,)
        # Single graphs are measured with one caller; concurrent callers are a matter of whole programs.
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
    """Every case that its target can run. Each is called twice; the second call gives the time of one call."""
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


def _closed(running: list[_Running], options: BenchOptions, callbacks: BenchCallbacks) -> float:
    """Warm-up of every case, then the rounds that count; returns the share of the whole that is done."""
    window, rounds = _plan(running, options)
    turn = sum(_turn_seconds(window, one.seconds) for one in running)
    least, most = turn * (rounds + CALM_WINDOWS), turn * (rounds + options.warmup_windows)
    load = _load_seconds(running, options)
    callbacks.note(
        f"{len(running)} configurations, {rounds} rounds of {window:.2g} s each: {_minutes(least + load)} from now"
        f", up to {_minutes(most + load)} if the machine is busy"
    )
    planned, done = rounds + CALM_WINDOWS, 0
    share = least / (least + load)
    for number in range(options.warmup_windows):
        pending = [one for one in running if not _calm(one, options)]
        if not pending:
            break
        for _, place in shuffled_rounds(range(len(pending)), 1, seed=options.seed + 1000 + number):
            one = pending[place]
            callbacks.step(f"warm-up: {one.case.target}, {one.case.what}", share * done / (planned * len(running)))
            _, latencies = closed_window(one.work, one.case.callers, window)
            one.warmup.append(quantiles(latencies)["p50"])
            done = min(done + 1, CALM_WINDOWS * len(running))
    done = CALM_WINDOWS * len(running)
    held: list[tuple[_Running, Round]] = []
    for number, place in shuffled_rounds(range(len(running)), rounds, seed=options.seed):
        one = running[place]
        text = f"round {number + 1} of {rounds}: {one.case.target}, {one.case.what}"
        callbacks.step(text, share * done / (planned * len(running)))
        meter = Meter()
        elapsed, latencies = closed_window(one.work, one.case.callers, window)
        held.append((one, Round(elapsed, _microseconds(latencies), meter.stop())))
        done += 1
        # Complete rounds only: after an interrupt all cases have the same rounds.
        if len(held) == len(running):
            for each, result in held:
                each.rounds.append(result)
            held = []
    return share


def _plan(running: list[_Running], options: BenchOptions) -> tuple[float, int]:
    """Length of a window in seconds, and the number of rounds."""
    opened = _OPEN_SHARE if options.shares or options.rates else 0.0
    seconds = options.seconds * (1 - opened)
    rounds = options.rounds
    window = seconds / (len(running) * (rounds + CALM_WINDOWS))
    window = min(max(window, _WINDOW[0]), _WINDOW[1])
    turn = sum(_turn_seconds(window, one.seconds) for one in running)
    fitting = int(seconds / turn) - CALM_WINDOWS
    return window, min(rounds, max(fitting, min(rounds, LEAST_ROUNDS)))


def _turn_seconds(window: float, call: float) -> float:
    """One window: a first call that does not count, at least two calls, and half of one beyond the end."""
    return call + max(window + call / 2, 2 * call)


def _load_seconds(running: Sequence[_Running], options: BenchOptions) -> float:
    """Least duration of the open loop."""
    targets = len({one.case.target for one in running if one.case.stage == options.load_stage})
    windows = targets * (len(options.shares) + len(options.rates)) * LOAD_ROUNDS
    return max(_OPEN_SHARE * options.seconds, windows * options.load_seconds) if windows else 0.0


def _calm(one: _Running, options: BenchOptions) -> bool:
    return difference(one.warmup) <= options.tolerance


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
    callbacks: BenchCallbacks,
) -> None:
    """Open loop of one stage, at the smallest batch."""
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
            # The highest throughput, with any number of callers.
            best = max(own, key=lambda each: each[0].throughput.value)
            callers = max(best[0].case.callers, 32 if target.client is not None else 1)
            capacity = best[0].throughput.value / best[0].case.items
            loaded.append((replace(best[0].case, callers=callers), best[1].work, capacity))
    seconds = _OPEN_SHARE * options.seconds
    for measurement in load_rounds(loaded, options, seconds, callbacks.step):
        state.measurements.append(measurement)
    if options.p99_ms is not None:
        for case, work, capacity in loaded:
            callbacks.step(f"highest rate: {case.target}, {case.what}", 0.99)
            state.searches.append(searched(case, work, capacity, options))


def _microseconds(seconds: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(value * 1e6, 1) for value in seconds)


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"
