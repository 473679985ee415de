"""Log, progress and interruption of a build."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any, TypeVar

from lrclr_export.plans._record import describes_plan

_Result = TypeVar("_Result")


def logger(library: Any) -> Any:
    """Logger that collects messages instead of printing them.

    ``.warnings`` and ``.errors`` hold messages by severity, ``.of_plan`` those that `BuildRecord.of_log` reads.
    """

    class Kept(library.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.warnings: list[str] = []
            self.errors: list[str] = []
            self.of_plan: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in {library.ILogger.Severity.ERROR, library.ILogger.Severity.INTERNAL_ERROR}:
                self.errors.append(message)
            elif severity == library.ILogger.Severity.WARNING:
                self.warnings.append(message)
            elif describes_plan(message):
                self.of_plan.append(message)

    return Kept()


def monitor(library: Any, on_progress: Callable[[str, int, int], None], stop: Event) -> Any:
    """Progress monitor that calls `on_progress` with phase, finished steps, and steps of the phase.

    When `stop` is set, the build ends at the next step.
    """

    class Monitor(library.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self._steps: dict[str, int] = {}

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:  # noqa: ARG002
            self._steps[phase] = steps
            on_progress(phase, 0, steps)

        def step_complete(self, phase: str, step: int) -> bool:
            on_progress(phase, step + 1, self._steps.get(phase, 0))
            return not stop.is_set()

        def phase_finish(self, phase: str) -> None:
            on_progress(phase, self._steps.get(phase, 0), self._steps.pop(phase, 0))

    return Monitor()


def interruptible(work: Callable[[Event], _Result]) -> _Result:
    """Run `work` in another thread, and set its event if this thread is interrupted.

    Python handles signals in the main thread. If the library ran there, an exception of a signal handler could be
    raised in a callback of the library, which would ignore it.
    """
    stop = Event()
    with ThreadPoolExecutor(1) as another_thread:
        try:
            return another_thread.submit(work, stop).result()
        except BaseException:
            stop.set()
            raise
