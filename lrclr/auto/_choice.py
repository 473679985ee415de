"""Choice of the fastest engine on this machine that passes the gates, measured on the bundle's golden inputs."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lrclr.engines import (
    AUTO,
    CPU_ENGINES,
    PLAN_ENGINES,
    EngineOptions,
    TensorRTEngine,
    engines_of,
    gpus,
    has_int8_products,
    open_named_engine,
)
from lrclr.errors import BundleError, EngineError, GateError, MissingExtraError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from lrclr.bundle import Bundle, Golden
    from lrclr.engines import Engine

_ROUNDS = 7
_IN_FLOAT = "onnxruntime in float32"


class ChosenEngine:
    """An engine and the reason for its choice.

    Args:
        engine: the chosen engine.
        kind: its name in `lrclr.engines.ENGINES`.
        why: the reason, with the measured times.
        options: with which `open_engine` opens the same engine.
    """

    def __init__(self, engine: Engine, kind: str, why: str, options: EngineOptions | None = None) -> None:
        self._engine, self.kind, self.why = engine, kind, why
        self.options = options or EngineOptions(kind)

    @property
    def engine(self) -> Engine:
        """The chosen engine itself."""
        return self._engine

    @property
    def name(self) -> str:
        return self._engine.name

    @property
    def members(self) -> tuple[Engine, ...]:
        """As `MemberEngines.members`; of a single network the engine alone."""
        return engines_of(self._engine)

    def run(self, graph: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return self._engine.run(graph, inputs)


def open_engine(bundle: Bundle, options: EngineOptions | None = None) -> Engine:
    """Open the engine that the options name, or the fastest one for `AUTO`.

    Args:
        bundle: the bundle whose graphs the engine runs.
        options: None for the engine that the bundle was made for.

    Returns:
        With `AUTO`, a `ChosenEngine`, which has the reason for the choice.

    Raises:
        GateError: with `AUTO`, no engine on this machine passes the bundle's gates.
        BundleError, EngineError, UsageError: as `lrclr.engines.open_named_engine`.
    """
    if options is not None and options.engine == AUTO:
        return choose_engine(bundle, options)
    return open_named_engine(bundle, options)


def choose_engine(bundle: Bundle, options: EngineOptions | None = None) -> ChosenEngine:
    """Choose the bundle's plans if they fit a GPU here, else the fastest engine on the CPU that passes the gates.

    It takes some seconds: every installed engine runs the gates of `lrclr.verification.verify`. Then the engines run a
    radiograph and the findings' prompts in turn. `lrclr build --engine auto` chooses once and records it in the bundle.

    A processor without instructions for int8 may multiply in int8 more slowly than in float32. There, an int8 bundle is
    also measured in ONNX Runtime with products in float32.

    Args:
        bundle: the bundle to run.
        options: threads of the engines; the engine in it is ignored.

    Raises:
        GateError: no engine here passes the bundle's gates.
        UsageError: the options name a provider, or the bundle is in FP8 and there are no suitable plans.
    """
    from lrclr.bundle import Golden

    options = options or EngineOptions(AUTO)
    if options.provider != "cpu":
        raise UsageError(
            "--engine auto cannot be used with --provider",
            why="it chooses the provider, too",
            fix="Leave --provider out, or name an engine.",
        )
    remarks: list[str] = []
    for kind in PLAN_ENGINES if gpus() else ():
        engine = _passing(bundle, EngineOptions(kind), remarks)
        if engine is not None:
            return ChosenEngine(engine, kind, "; ".join([f"its plans fit {gpus()[0].name}", *remarks]))
    bundle.require_products("the CPU")
    candidates = {kind: EngineOptions(kind, threads=options.threads) for kind in CPU_ENGINES}
    if bundle.manifest.precision == "int8" and not has_int8_products():
        candidates[_IN_FLOAT] = replace(candidates["onnxruntime"], int8_products=False)
    passing: dict[str, Engine] = {}
    for label, one in candidates.items():
        engine = _passing(bundle, one, remarks)
        if engine is not None:
            passing[label] = engine
    if not passing:
        raise GateError(
            "no engine on this machine passes the bundle's gates",
            why="; ".join(remarks),
            fix="Install one, such as pip install '.[onnxruntime]', or export the bundle again.",
        )
    label, why = _fastest(passing, Golden.load(bundle.golden_path), len(bundle.findings.prompts))
    kind = str(candidates[label].engine)
    return ChosenEngine(passing[label], kind, "; ".join([why, *remarks]), candidates[label])


def named_options(bundle: Bundle, options: EngineOptions) -> tuple[EngineOptions, str | None]:
    """Replace `AUTO` by the name of the engine that `choose_engine` chooses. Other options are returned unchanged.

    Returns:
        The options, and the choice in words; None if the options named an engine.

    Raises the errors of `choose_engine`.
    """
    if options.engine != AUTO:
        return options, None
    chosen = choose_engine(bundle, options)
    _close(chosen.engine)
    return chosen.options, f"engine {chosen.name} ({chosen.why})"


def _passing(bundle: Bundle, options: EngineOptions, remarks: list[str]) -> Engine | None:
    """Return the engine if it passes the bundle's gates; else None, after adding the reason to the remarks."""
    from lrclr.verification import verify

    engine: Engine | None = None
    try:
        engine = open_named_engine(bundle, options)
        report = verify(bundle, engine)
    except (EngineError, MissingExtraError) as error:
        _close(engine)
        remarks.append(f"{options.engine}: {error.what}")
        return None
    except BundleError as error:
        if options.engine not in PLAN_ENGINES:
            raise
        remarks.append(f"{options.engine}: {error.what}")
        return None
    if not report.passed:
        first = report.refused[0]
        remarks.append(f"{options.engine}: the gate {first.gate} of {first.subject} failed")
        _close(engine)
        return None
    return engine


def _close(engine: Engine | None) -> None:
    """Free the GPU memory of an engine that was not chosen."""
    for each in () if engine is None else engines_of(engine):
        if isinstance(each, TensorRTEngine):
            each.close()


def _fastest(engines: Mapping[str, Engine], golden: Golden, prompts: int) -> tuple[str, str]:
    """Return the engine with the smallest median time for one radiograph, and the times in words."""
    if len(engines) == 1:
        return next(iter(engines)), "the only engine here that passes the gates"
    image: dict[str, NDArray[Any]] = {"pixel_values": golden["pixel_values"][:1]}
    length = int(golden["text_mask"][:prompts].sum(1).max())
    pairs: dict[str, NDArray[Any]] = {
        "region_tokens": golden["region_tokens"][:1],
        "text_tokens": np.ascontiguousarray(golden["text_tokens"][:prompts, :length]),
        "text_mask": np.ascontiguousarray(golden["text_mask"][:prompts, :length]),
    }
    seconds: dict[str, list[float]] = {kind: [] for kind in engines}
    for number in range(_ROUNDS + 1):
        for kind, engine in engines.items():
            began = time.perf_counter()
            engine.run("image_encoder", image)
            engine.run("fusion_head", pairs)
            if number:
                seconds[kind].append(time.perf_counter() - began)
    medians = {kind: float(np.median(times)) for kind, times in seconds.items()}
    first, second = sorted(medians, key=lambda kind: medians[kind])[:2]
    return first, f"{medians[first] * 1e3:.1f} ms for a radiograph here, {second} {medians[second] * 1e3:.1f} ms"
