"""Engines: libraries that run the graphs of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from lrclr.engines._gpu import Gpu, gpus
from lrclr.engines._onnxruntime import OnnxRuntimeEngine
from lrclr.engines._openvino import OpenVINOEngine
from lrclr.engines._operators import INT8_FLAGS, Operator, ProfiledEngine, has_int8_products, products_by_type, profiled
from lrclr.engines._tensorrt import TensorRTEngine
from lrclr.engines._tensorrt_library import PACKAGES as _PACKAGES
from lrclr.engines._tensorrt_library import tensorrt_library
from lrclr.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from lrclr.bundle import Bundle
    from lrclr.engines._torch import TorchEngine

__all__ = [
    "AUTO",
    "CPU_ENGINES",
    "ENGINES",
    "INT8_FLAGS",
    "PLAN_ENGINES",
    "Engine",
    "EngineOptions",
    "Gpu",
    "MemberEngines",
    "OnnxRuntimeEngine",
    "OpenVINOEngine",
    "Operator",
    "ProfiledEngine",
    "TensorRTEngine",
    "TorchEngine",
    "engines_of",
    "gpus",
    "has_int8_products",
    "open_named_engine",
    "preload",
    "products_by_type",
    "profiled",
    "tensorrt_library",
    "tokens_of_call",
]

PLAN_ENGINES = tuple(_PACKAGES)
CPU_ENGINES = ("onnxruntime", "openvino")
ENGINES = (*CPU_ENGINES, *PLAN_ENGINES)
AUTO = "auto"
"""Stands for the fastest engine of this machine."""


def __getattr__(name: str) -> Any:
    # Imported at the first use, since running a bundle needs no torch.
    if name == "TorchEngine":
        from lrclr.engines._torch import TorchEngine

        return TorchEngine
    raise AttributeError(f"module 'lrclr.engines' has no attribute {name!r}")


class Engine(Protocol):
    """Runs the graphs of one model; safe to call from several threads."""

    @property
    def name(self) -> str:
        """Library, version and device, for tables and reports."""

    def run(self, graph: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run one of `lrclr.contract.GRAPHS`.

        Args:
            graph: name of the graph.
            inputs: every input of the graph by name, with the shapes of its contract.

        Returns:
            Every output by name.

        Raises:
            EngineError: the engine refused the inputs or failed.
        """


class MemberEngines:
    """An engine for each member of an ensemble. As an engine itself, it runs the graphs of one of them.

    Args:
        members: the engine of each member, in order.
        lead: index of the member whose graphs `run` runs: the one that gives the regions.
        at_once: whether the members may compute at the same time. Engines in this process take turns instead, since
            each uses all cores or the whole GPU.
    """

    def __init__(self, members: Sequence[Engine], lead: int, *, at_once: bool = False) -> None:
        self.members, self.at_once = tuple(members), at_once
        self._lead = self.members[lead]

    @property
    def name(self) -> str:
        return self._lead.name

    def run(self, graph: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return self._lead.run(graph, inputs)


def engines_of(engine: Engine) -> tuple[Engine, ...]:
    """The engine of each member of an ensemble, in order; of a single network the engine itself."""
    members: tuple[Engine, ...] = getattr(engine, "members", (engine,))
    return members


def tokens_of_call(engine: Engine) -> int | None:
    """Number of tokens of pairs that the fusion head computes in the time that a call of it takes in addition.

    By it prompts are divided into groups of similar lengths, with a call each. None for an engine on a GPU or a server,
    where another call takes longer than the padding that it saves.
    """
    inner: Any = getattr(engine, "engine", engine)
    found: int | None = getattr(inner, "tokens_of_call", None)
    return found


def preload(engine: Engine) -> None:
    """Begin to load all graphs of an engine in this process that loads each at its first run."""
    for each in engines_of(engine):
        if isinstance(each, OnnxRuntimeEngine):
            each.preload()


@dataclass(frozen=True)
class EngineOptions:
    """Choice of an engine.

    Attributes:
        engine: one of `ENGINES`; None for the engine of the bundle; `AUTO` for the fastest one on this machine, which
            `lrclr.auto.open_engine` chooses.
        provider: ``"cpu"`` or ``"cuda"``, for ONNX Runtime; for torch it is the device.
        threads: threads of one operator in ONNX Runtime or OpenVINO; None for one per core.
        int8_products: False for ONNX Runtime to multiply in float32 what a graph has in int8; the rounding stays.
        emulate: whether ONNX Runtime may open a bundle in FP8. It rounds as such a GPU does and multiplies in float32,
            which suffices for the gates.
        few_runs: whether so few runs follow that ONNX Runtime should open graphs quickly rather than run them quickly.
    """

    engine: str | None = None
    provider: str = "cpu"
    threads: int | None = None
    int8_products: bool = True
    emulate: bool = False
    few_runs: bool = False


def open_named_engine(bundle: Bundle, options: EngineOptions | None = None) -> Engine:
    """Open the engine of the options, or by default that of the bundle. It does not fall back to another one.

    Returns:
        For an ensemble `MemberEngines`.

    Raises:
        BundleError: the bundle has no plans that suit this machine.
        EngineError: the engine is not available on this machine.
        UsageError: the options ask for `AUTO`, an unknown engine, a provider that the engine does not have, or an
            engine without products in FP8 for a bundle in FP8.
    """
    options = options or EngineOptions()
    if len(bundle.members) > 1:
        return MemberEngines([open_named_engine(each, options) for each in bundle.members], bundle.manifest.lead)
    name = options.engine or bundle.manifest.engine["name"]
    if name == AUTO:
        raise UsageError(
            f"the engine {AUTO!r} cannot be opened by name",
            fix="Call lrclr.auto.open_engine to choose the fastest one.",
        )
    if name not in ENGINES:
        raise UsageError(f"unknown engine {name!r}", fix=f"Choose {', '.join((*ENGINES, AUTO))}.")
    if not (options.emulate and name == "onnxruntime"):
        bundle.require_products(name)
    if name == "onnxruntime":
        return OnnxRuntimeEngine(
            bundle,
            provider=options.provider,
            threads=options.threads,
            int8_products=options.int8_products,
            # Without the copies, products in float16 are summed in another order, and answers change a little.
            few_runs=options.few_runs and bundle.manifest.precision in {"fp32", "int8"},
        )
    if name == "openvino":
        if options.provider != "cpu":
            raise UsageError("the engine openvino runs on the CPU", fix="Omit --provider.")
        return OpenVINOEngine(bundle, threads=options.threads)
    return TensorRTEngine(bundle, engine=name)
