"""What runs a bundle's graphs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from lrclr.engines._onnxruntime import OnnxRuntimeEngine

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["Engine", "OnnxRuntimeEngine"]


class Engine(Protocol):
    """Runs the graphs of one bundle; safe to call from several threads."""

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
