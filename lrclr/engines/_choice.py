"""The fastest engine of this machine whose gates hold: measured on the bundle's golden inputs, not guessed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from lrclr.engines import AUTO, CPU_ENGINES, PLAN_ENGINES, EngineOptions, gpus, open_engine
from lrclr.errors import BundleError, EngineError, GateError, MissingExtraError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from lrclr.bundle import Bundle
    from lrclr.engines import Engine
    from lrclr.gates import Golden

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


def choose_engine(bundle: Bundle, options: EngineOptions | None = None) -> ChosenEngine:
    """The bundle's plans where they suit a GPU here; else the fastest on the CPU of those whose gates hold.

    It takes some seconds: every engine that is installed runs the gates, and then a radiograph and the findings'
    prompts, in turn with the others. `lrclr build --engine auto` asks once and keeps the answer in the bundle.

    Args:
        bundle: what shall be answered with.
        options: threads of the engines; they name none.

    Raises:
        GateError: no engine here holds the bundle's gates.
        UsageError: a provider was asked for too.
    """
    from lrclr.gates import Golden, Tolerances, run_gates

    options = options or EngineOptions(AUTO)
    if options.provider != "cpu":
        raise UsageError("--engine auto chooses where to run, too", fix="Leave --provider out, or name an engine.")
    remarks: list[str] = []
    if gpus():
        for kind in PLAN_ENGINES:
            try:
                return ChosenEngine(open_engine(bundle, EngineOptions(kind)), kind, f"its plans suit {gpus()[0].name}")
            except (BundleError, EngineError, MissingExtraError) as error:
                remarks.append(f"{kind}: {error.what}")
    golden = Golden.load(bundle.golden_path)
    limits = {name: value for name, value in bundle.manifest.tolerances.items() if name != "overridden"}
    holding: dict[str, Engine] = {}
    for kind in CPU_ENGINES:
        try:
            engine = open_engine(bundle, EngineOptions(kind, threads=options.threads))
            results = run_gates(engine, golden, bundle.findings, bundle.manifest.scoring, Tolerances(**limits))
        except (EngineError, MissingExtraError) as error:
            remarks.append(error.what)
            continue
        refused = [result for result in results if not result.passed]
        if refused:
            remarks.append(f"{kind}: the gate {refused[0].gate} of {refused[0].subject} refused")
        else:
            holding[kind] = engine
    if not holding:
        raise GateError("no engine here holds the bundle's gates", why="; ".join(remarks), fix="Export it again.")
    kind, why = _fastest(holding, golden, len(bundle.findings.prompts))
    return ChosenEngine(holding[kind], kind, "; ".join([why, *remarks]))


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
