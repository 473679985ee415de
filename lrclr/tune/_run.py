"""`tune`: from a bundle to the configuration that answers most requests within a limit of the latency."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lrclr._files import check_place, check_replaceable, link_tree, replace_directory
from lrclr._processors import processors
from lrclr._records import record_from
from lrclr.bench import BenchCallbacks, Files, environment
from lrclr.bundle import Bundle, ServingSettings, bundle_entries
from lrclr.engines import gpus
from lrclr.errors import BundleError, ServerError, UsageError
from lrclr.triton.server import find_server
from lrclr.tune._result import Row, TuneResult
from lrclr.tune._search import Budget, halving, rungs_for
from lrclr.tune._server import ServerBench
from lrclr.tune._space import Space, factors
from lrclr.tune._windows import Plan
from lrclr_export.repository.records import write_records
from lrclr_export.repository.triton_config import serving_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lrclr.tune._options import TuneOptions
    from lrclr.tune._search import Standing
    from lrclr.tune._space import Choice
    from lrclr.tune._windows import Estimate

_GAIN: Final = 1.03
"""Least gain over the default for which it is given up."""
_HOPELESS: Final = 1.5
"""Times the limit. If every 99th percentile of the first round is above that, the search ends."""
_TRIAL: Final = Plan(1, 0, 1.0)


def tune(bundle: Path, options: TuneOptions, *, callbacks: BenchCallbacks | None = None) -> TuneResult:
    """Measure configurations of a bundle on a real server. The bundle is not changed; `keep` does that.

    Args:
        bundle: the bundle's folder.
        options: what to look for.
        callbacks: progress callbacks.

    Raises:
        BundleError: the bundle is missing or damaged.
        UsageError: this machine cannot serve it.
        ServerError: there is no Triton server, or it does not start with the default configuration.
    """
    callbacks = callbacks or BenchCallbacks()
    opened = Bundle(bundle)
    find_server(options.server)
    space = _space(opened, options)
    files = Files.read(options.files, exact=options.exact)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="lrclr-tune-") as folder:
        running = _Running(began, options.seconds, callbacks.step)
        server = ServerBench(opened, Path(folder) / "bundle", files, options, running.window)
        running.name = "default"
        first = server.measure(space.candidate(space.default), _TRIAL, 1.0, None)
        if first.failure is not None:
            raise ServerError("the bundle cannot be served with its default configuration", why=first.failure)
        overhead = time.monotonic() - began - sum(each.seconds for each in first.windows)
        budget = Budget(options.seconds - (time.monotonic() - began), overhead, time.monotonic)
        rungs = rungs_for(budget.left, overhead, len(space.screening()))

        def on_rung(number: int, count: int, seconds: float) -> None:
            running.round = f"round {number + 1} of {len(rungs)}"
            if number == 0 and count < len(space.screening()):
                callbacks.note(
                    f"there is time for {count} of {len(space.screening())} configurations: more --minutes tries more"
                )
            callbacks.note(
                f"{running.round}: {count} configurations, windows of {seconds:.1f} s; about {_time(budget.left)} left"
            )

        def measure(choice: Choice, plan: Plan, seconds: float, start: float | None) -> Estimate:
            running.name = space.name(choice)
            return server.measure(space.candidate(choice), plan, seconds, start)

        standings = halving(
            space, measure, budget, rungs, on_rung=on_rung, give_up=lambda so_far: _hopeless(so_far, options)
        )
    return _result(opened, space, standings, options, files, time.monotonic() - began)


def keep(bundle: Path, result: TuneResult, output: Path | None = None) -> Bundle:
    """Write the chosen settings into the bundle, or into a copy of it.

    Args:
        bundle: the bundle's folder.
        result: from `tune`, for this bundle.
        output: folder of the copy; by default the bundle itself is changed. After an error it is unchanged.

    Raises:
        TuningError: no configuration answers within the limit.
        BundleError: the bundle was changed since it was tuned.
        UsageError: `output` holds other files than a bundle.
    """
    result.require_reached()
    source, target = Bundle(bundle), output or bundle
    if source.sha256 != result.bundle:
        raise BundleError(
            f"the bundle {bundle} was changed while it was tuned", fix="Run `lrclr tune` again; nothing was written."
        )
    settings = record_from(result.best.settings, ServingSettings)
    with replace_directory(target, expected=bundle_entries(target), overwrite=True) as staging:
        link_tree(source.path, staging)
        write_records(staging, source.manifest.tuned(settings, result.measured()))
    return Bundle(target)


def check_output(bundle: Path, output: Path | None = None) -> None:
    """Raise UsageError, before measuring, if `keep` could not write: for want of permission, or since `output` holds
    other files than a bundle.
    """
    if output is None:
        check_place(bundle)
    else:
        check_replaceable(output, bundle_entries(output), overwrite=True)


@dataclass
class _Running:
    """What runs now, for the progress.

    Attributes:
        began: when it began.
        seconds: how long it takes in all.
        step: see `BenchCallbacks`.
        round, name: the current round and configuration.
    """

    began: float
    seconds: float
    step: Callable[[str, float], None]
    round: str = "first look"
    name: str = ""

    def window(self, text: str) -> None:
        """A window, or another part of a measurement, begins."""
        passed = time.monotonic() - self.began
        left = _time(max(0.0, self.seconds - passed))
        self.step(f"{self.round}, {self.name}: {text}; about {left} left", min(1.0, passed / self.seconds))


def _space(bundle: Bundle, options: TuneOptions) -> Space:
    """The configurations for a bundle on this machine."""
    bundle.require_servable()
    engine = bundle.manifest.triton_engine
    here = gpus()
    if engine == "tensorrt" and not here:
        raise UsageError(
            f"the bundle {bundle.path} is served by TensorRT, which needs a GPU",
            why="this machine has none",
            fix=f"Run `lrclr tune` on the machine that serves, or first run: lrclr build {bundle.path} "
            "--engine onnxruntime",
        )
    return Space(
        factors(
            processors=processors(),
            gpu=bool(here) and engine != "openvino",
            batches=serving_of(bundle.manifest).batches,
            max_batch=bundle.manifest.max_batch,
            limit_ms=options.p99_ms,
            decoding=options.decoding,
        )
    )


def _hopeless(standings: Sequence[Standing], options: TuneOptions) -> bool:
    return all(
        each.last.rate == 0 and (each.last.p99_ms is None or each.last.p99_ms > _HOPELESS * options.p99_ms)
        for each in standings
    )


def _result(
    bundle: Bundle,
    space: Space,
    standings: Sequence[Standing],
    options: TuneOptions,
    files: Files,
    seconds: float,
) -> TuneResult:
    rows = []
    for each in standings:
        candidate = space.candidate(each.choice)
        estimates = tuple(each.estimates[number] for number in sorted(each.estimates))
        rows.append(
            Row(
                space.name(each.choice),
                candidate.settings.to_dict(),
                candidate.decoding,
                max(each.estimates) + 1,
                estimates,
            )
        )
    default = next(place for place, each in enumerate(standings) if each.choice == space.default)
    return TuneResult(
        bundle=bundle.sha256,
        engine=bundle.manifest.triton_engine,
        p99_ms=options.p99_ms,
        callers=options.callers,
        images=files.describe(),
        seconds=seconds,
        rounds=max(row.rounds for row in rows),
        rows=tuple(rows),
        chosen=_chosen(standings, default),
        default=default,
        environment=environment(),
    )


def _chosen(standings: Sequence[Standing], default: int) -> int:
    """The best of the last round: of the stable ones, if one of them reaches the limit. The default, if the gain over
    it is too small to tell.
    """
    final = [place for place, each in enumerate(standings) if max(each.estimates) == max(standings[0].estimates)]
    stable = [place for place in final if standings[place].last.stable and standings[place].last.rate]
    best = max(stable or final, key=lambda place: standings[place].last.key)
    base = standings[default].last
    return best if standings[best].last.rate > _GAIN * base.rate else default


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
