"""What runs a model's graphs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from lrclr.engines._gpu import Gpu, gpus
from lrclr.engines._onnxruntime import OnnxRuntimeEngine
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
    "ENGINES",
    "PLAN_ENGINES",
    "Engine",
    "EngineOptions",
    "Gpu",
    "OnnxRuntimeEngine",
    "TensorRTEngine",
    "TorchEngine",
    "gpus",
    "open_engine",
    "tensorrt_library",
]

PLAN_ENGINES = tuple(_PACKAGES)
ENGINES = ("onnxruntime", *PLAN_ENGINES)


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
        engine: one of `ENGINES`; None for the one that the bundle was made for.
        provider: of ONNX Runtime: ``"cpu"`` or ``"cuda"``. torch takes it for the device.
        threads: of one operator of ONNX Runtime; None for one a core.
    """

    engine: str | None = None
    provider: str = "cpu"
    threads: int | None = None


def open_engine(bundle: Bundle, options: EngineOptions | None = None) -> Engine:
    """The engine that was asked for, and no other.

    Raises:
        BundleError: the bundle has no plans that suit this machine.
        EngineError: the engine cannot be had here.
        UsageError: there is no such engine.
    """
    options = options or EngineOptions()
    name = options.engine or bundle.manifest.engine["name"]
    if name not in ENGINES:
        raise UsageError(f"there is no engine {name!r}", fix=f"Choose {', '.join(ENGINES)}.")
    if name == "onnxruntime":
        return OnnxRuntimeEngine(bundle, provider=options.provider, threads=options.threads)
    return TensorRTEngine(bundle, engine=name)
