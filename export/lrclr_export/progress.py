"""Progress callbacks of `export_bundle` and `build_bundle`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrclr.verification import GateResult

__all__ = ["NO_PROGRESS", "NoProgress", "ProgressCallbacks"]


class ProgressCallbacks(Protocol):
    """Progress callbacks."""

    def task(self, text: str) -> None:
        """A task begins; the one before has ended."""

    def step(self, phase: str, done: int, steps: int) -> None:
        """The library that builds plans has done so many steps of a phase. Called from another thread."""

    def gates(self, results: Sequence[GateResult]) -> None:
        """The gates were measured; called also when one of them refuses."""


class NoProgress:
    """The default progress callbacks. They do nothing."""

    def task(self, text: str) -> None:
        """Do nothing."""

    def step(self, phase: str, done: int, steps: int) -> None:
        """Do nothing."""

    def gates(self, results: Sequence[GateResult]) -> None:
        """Do nothing."""


NO_PROGRESS: Final = NoProgress()
