"""What runs a model's graphs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from lrclr.engines._gpu import Gpu, gpus
from lrclr.engines._onnxruntime import OnnxRuntimeEngine
from lrclr.engines._openvino import OpenVINOEngine
from lrclr.engines._tensorrt import TensorRTEngine
from lrclr.engines._tensorrt_library import PACKAGES as _PACKAGES
from lrclr.engines._tensorrt_library import tensorrt_library
from lrclr.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from lrclr.bundle import Bundle
    from lrclr.engines._torch import TorchEngine

__all__ = [
    "AUTO",
    "CPU_ENGINES",
    "ENGINES",
    "PLAN_ENGINES",
    "Engine",
    "EngineOptions",
    "Gpu",
    "OnnxRuntimeEngine",
    "OpenVINOEngine",
    "TensorRTEngine",
    "TorchEngine",
    "gpus",
    "open_named_engine",
    "tensorrt_library",
]

PLAN_ENGINES = tuple(_PACKAGES)
CPU_ENGINES = ("onnxruntime", "openvino")
ENGINES = (*CPU_ENGINES, *PLAN_ENGINES)
AUTO = "auto"
"""Asks for the fastest engine here instead of one by name."""


def __getattr__(name: str) -> Any:
    # Looked up when first used: whoever answers with a bundle needs no torch.
    if name == "TorchEngine":
        from lrclr.engines._torch import TorchEngine

        return TorchEngine
    raise AttributeError(f"module 'lrclr.engines' has no attribute {name!r}")


class Engine(Protocol):
    """Runs the graphs of one model; safe to call from several threads."""

    @property
    def name(self) -> str:
        """What runs, and on what: for tables and reports."""

    def run(self, graph: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run one of `lrclr.bundle.GRAPHS`.

        Args:
            graph: its name.
            inputs: every input of the graph, by name, in the shapes of the graph's contract.

        Returns:
            Every output by name.

        Raises:
            EngineError: the engine refused the inputs or failed.
        """


@dataclass(frozen=True)
class EngineOptions:
    """What shall run a bundle's graphs.

    Attributes:
        engine: one of `ENGINES`; None for the one that the bundle was made for; `AUTO` for the fastest one on this
            machine, which `lrclr.auto.open_engine` chooses.
        provider: of ONNX Runtime: ``"cpu"`` or ``"cuda"``. torch takes it for the device.
        threads: of one operator of ONNX Runtime or OpenVINO; None for one a core.
    """

    engine: str | None = None
    provider: str = "cpu"
    threads: int | None = None


def open_named_engine(bundle: Bundle, options: EngineOptions | None = None) -> Engine:
    """Open the engine that the options name, or the one that the bundle was made for. There is no fallback.

    Raises:
        BundleError: the bundle has no plans that suit this machine.
        EngineError: the engine is not available on this machine.
        UsageError: the options ask for `AUTO`, an unknown engine, or a provider that the engine does not have.
    """
    options = options or EngineOptions()
    name = options.engine or bundle.manifest.engine["name"]
    if name == AUTO:
        raise UsageError(
            f"an engine must be named here, not {AUTO!r}", fix="Call lrclr.auto.open_engine to choose the fastest one."
        )
    if name not in ENGINES:
        raise UsageError(f"there is no engine {name!r}", fix=f"Choose {', '.join((*ENGINES, AUTO))}.")
    if name == "onnxruntime":
        return OnnxRuntimeEngine(bundle, provider=options.provider, threads=options.threads)
    if name == "openvino":
        if options.provider != "cpu":
            raise UsageError("the engine openvino runs on the CPU", fix="Leave --provider out.")
        return OpenVINOEngine(bundle, threads=options.threads)
    return TensorRTEngine(bundle, engine=name)
