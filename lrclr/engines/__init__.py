"""What runs a model's graphs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from lrclr.engines._onnxruntime import OnnxRuntimeEngine

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from lrclr.engines._torch import TorchEngine

__all__ = ["Engine", "OnnxRuntimeEngine", "TorchEngine"]


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
