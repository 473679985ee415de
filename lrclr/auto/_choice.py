"""The fastest engine of this machine that `lrclr verify` accepts, measured on the bundle's golden inputs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from lrclr.engines import AUTO, CPU_ENGINES, PLAN_ENGINES, EngineOptions, TensorRTEngine, gpus, open_named_engine
from lrclr.errors import BundleError, EngineError, GateError, MissingExtraError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from lrclr.bundle import Bundle, Golden
    from lrclr.engines import Engine

_ROUNDS = 7


class ChosenEngine:
    """An engine, and the reason that it and no other runs.

    Args:
        engine: what was chosen.
        kind: its name among `lrclr.engines.ENGINES`.
        why: in words, with what was measured.
    """

    def __init__(self, engine: Engine, kind: str, why: str) -> None:
        self._engine, self.kind, self.why = engine, kind, why

    @property
    def name(self) -> str:
        return self._engine.name

    def run(self, graph: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return self._engine.run(graph, inputs)


def open_engine(bundle: Bundle, options: EngineOptions | None = None) -> Engine:
    """Open the engine that the options name, or the fastest one if they ask for `AUTO`.

    Args:
        bundle: the bundle whose graphs the engine shall run.
        options: None for the engine that the bundle was made for.

    Returns:
        With `AUTO` a `ChosenEngine`, which says why it was chosen.

    Raises:
        GateError: with `AUTO`, no engine on this machine passes the bundle's gates.
        BundleError, EngineError, UsageError: as `lrclr.engines.open_named_engine`.
    """
    if options is not None and options.engine == AUTO:
        return choose_engine(bundle, options)
    return open_named_engine(bundle, options)


def choose_engine(bundle: Bundle, options: EngineOptions | None = None) -> ChosenEngine:
    """The bundle's plans where they suit a GPU here, else the fastest engine on the CPU; only if its gates hold.

    It takes some seconds: every engine that is installed runs the gates of `lrclr.verification.verify`, and then a
    radiograph and the findings' prompts, in turn with the others. `lrclr build --engine auto` asks once and keeps the
    answer in the bundle.

    Args:
        bundle: what shall be answered with.
        options: threads of the engines; they name none.

    Raises:
        GateError: no engine here holds the bundle's gates.
        UsageError: a provider was asked for too.
    """
    from lrclr.bundle import Golden

    options = options or EngineOptions(AUTO)
    if options.provider != "cpu":
        raise UsageError("--engine auto chooses where to run, too", fix="Leave --provider out, or name an engine.")
    remarks: list[str] = []
    for kind in PLAN_ENGINES if gpus() else ():
        engine = _holding(bundle, EngineOptions(kind), remarks)
        if engine is not None:
            return ChosenEngine(engine, kind, "; ".join([f"its plans suit {gpus()[0].name}", *remarks]))
    holding: dict[str, Engine] = {}
    for kind in CPU_ENGINES:
        engine = _holding(bundle, EngineOptions(kind, threads=options.threads), remarks)
        if engine is not None:
            holding[kind] = engine
    if not holding:
        raise GateError(
            "no engine here holds the bundle's gates",
            why="; ".join(remarks),
            fix="Install one, such as pip install '.[onnxruntime]', or export the bundle again.",
        )
    kind, why = _fastest(holding, Golden.load(bundle.golden_path), len(bundle.findings.prompts))
    return ChosenEngine(holding[kind], kind, "; ".join([why, *remarks]))


def _holding(bundle: Bundle, options: EngineOptions, remarks: list[str]) -> Engine | None:
    """The engine if the bundle's gates hold on it; else None, and a remark why."""
    from lrclr.verification import verify

    engine: Engine | None = None
    try:
        engine = open_named_engine(bundle, options)
        report = verify(bundle, engine)
    except (EngineError, MissingExtraError) as error:
        _give_up(engine)
        remarks.append(f"{options.engine}: {error.what}")
        return None
    except BundleError as error:
        if options.engine not in PLAN_ENGINES:
            raise
        remarks.append(f"{options.engine}: {error.what}")
        return None
    if not report.passed:
        first = report.refused[0]
        remarks.append(f"{options.engine}: the gate {first.gate} of {first.subject} refused")
        _give_up(engine)
        return None
    return engine


def _give_up(engine: Engine | None) -> None:
    """Free the memory on the GPU of an engine that was not chosen."""
    if isinstance(engine, TensorRTEngine):
        engine.close()


def _fastest(engines: Mapping[str, Engine], golden: Golden, prompts: int) -> tuple[str, str]:
    """Which, and how it did, by the median of rounds in which every engine answers for one radiograph."""
    if len(engines) == 1:
        return next(iter(engines)), "the only engine here whose gates hold"
    image: dict[str, NDArray[Any]] = {"pixel_values": golden.pixel_values[:1]}
    length = int(golden.text_mask[:prompts].sum(1).max())
    pairs: dict[str, NDArray[Any]] = {
        "region_tokens": golden.region_tokens[:1],
        "text_tokens": np.ascontiguousarray(golden.text_tokens[:prompts, :length]),
        "text_mask": np.ascontiguousarray(golden.text_mask[:prompts, :length]),
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
