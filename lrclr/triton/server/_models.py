"""The models of a running server: whether they answer, and how a new version takes over from the one before."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Final

from lrclr.errors import LrclrError, ServerError, ServerUnavailableError
from lrclr.triton.server._processes import kill

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lrclr.contract import ModelNames
    from lrclr.triton.server._probe import Probe
    from lrclr.triton.server._process import ServerProcess
    from lrclr.triton.server._repository import ServedRepository

PATIENCE: Final = 15.0
"""Seconds to wait for the answer to a radiograph."""
# Seconds that requests of a superseded version may take when the next version is to take over.
_DRAIN: Final = 30.0
_TICK: Final = 0.1


class ServedModels:
    """Versions of the models in one server.

    Args:
        process: the server.
        repository: its model repository.
        probe: a connection to it.
        names: names of the models.
        startup_timeout: seconds in which a version must be loaded and answer.
        on_log: called with level and message of events.
    """

    def __init__(
        self,
        process: ServerProcess,
        repository: ServedRepository,
        probe: Probe,
        names: ModelNames,
        startup_timeout: float,
        on_log: Callable[[str, str], None],
    ) -> None:
        self._process, self._repository, self.probe = process, repository, probe
        self._names = names
        self._startup_timeout = startup_timeout
        self._on_log = on_log
        self._superseded: list[int] = []

    def ask(self, *, timeout: float, version: int | None = None) -> None:
        """Send a radiograph; errors are those of `Probe.infer`."""
        try:
            self.probe.infer(timeout=timeout, version=version)
        finally:
            self._process.note_models()

    def dead(self) -> list[str]:
        """Models of the newest version that have a dead process."""
        self._process.note_models()
        return self._process.dead_models(self._repository.version)

    def await_answer(self) -> None:
        """Wait until the server has answered a radiograph.

        Raises:
            ServerError: it ended, or did not answer in time.
        """
        deadline = time.monotonic() + self._startup_timeout
        while True:
            self._process.raise_if_ended(at_start=True)
            try:
                self.ask(timeout=max(0.1, min(PATIENCE, deadline - time.monotonic())))
            except ServerUnavailableError as error:
                if time.monotonic() > deadline:
                    raise ServerError(
                        f"the server did not answer within {self._startup_timeout:g} s",
                        why=self._process.log.reason() or str(error),
                        fix="Give it longer with --startup-timeout, or look at its log.",
                    ) from error
                time.sleep(0.05)
            else:
                return

    def take_over(self, version: int) -> None:
        """Let a version that was prepared answer in place of the one that answers now.

        Raises:
            ServerError: it cannot be loaded, or its answer is an error; the version before goes on.
        """
        before = self._repository.version
        # The server keeps two versions of a graph.
        self.retire(drain=_DRAIN)
        try:
            for models in (self._names.graphs, (self._names.classifier,)):
                self._repository.publish(version, models)
                self._await_loaded(models, version)
            self._await_first_answer(version)
        except LrclrError:
            self._repository.drop(version)
            self.probe.cancel()
            self._process.raise_if_ended()
            self._await_loaded((self._names.classifier,), before)
            raise
        self._superseded.append(before)
        self.retire()

    def retire(self, *, drain: float | None = None) -> None:
        """Delete superseded versions whose requests have been answered, since they hold a bundle's weights.

        Args:
            drain: seconds after which the processes that answer such requests are killed; None to leave them alone.
        """
        deadline = None if drain is None else time.monotonic() + drain
        while self._superseded:
            pids = {version: self._process.living(self._names.classifier, version) for version in self._superseded}
            for version in [version for version, living in pids.items() if not living]:
                self._superseded.remove(version)
                self._repository.drop(version)
            if deadline is None or not self._superseded:
                return
            self._process.raise_if_ended()
            if time.monotonic() > deadline:
                self._on_log("warning", "a superseded model has not ended: its processes are killed")
                kill([pid for version in self._superseded for pid in pids[version]])
            time.sleep(_TICK)

    def drain(self, deadline: float) -> bool:
        """Wait until the model `lrclr` has answered the requests that it has accepted.

        Triton does not do so: when it ends, its graphs refuse requests at once, also those of the model `lrclr`, whose
        requests then fail.

        Args:
            deadline: deadline in the time of `time.monotonic`.

        Returns:
            Whether all were answered.
        """
        waiting = self._process.versions(self._names.classifier)
        # The folder can be missing: systems clean up the place for temporary files.
        with contextlib.suppress(OSError):
            self._repository.withdraw()
        while self._process.running:
            # Triton ends the processes of a version when all of its requests have been answered.
            waiting = {
                version: pids
                for version, pids in waiting.items()
                if pids <= set(self._process.living(self._names.classifier, version)) - self._process.log.done
            }
            if not waiting or time.monotonic() > deadline:
                break
            time.sleep(0.02)
        return not waiting

    def _await_loaded(self, models: Sequence[str], version: int) -> None:
        deadline = time.monotonic() + self._startup_timeout
        waiting = list(models)
        while waiting:
            self._process.raise_if_ended()
            self._process.note_models()
            for model in models:
                failure = self._process.log.failure(model, version)
                if failure is not None:
                    raise ServerError(f"the server could not load {model}", why=failure)
            # The server can be too busy to say.
            with contextlib.suppress(ServerUnavailableError):
                waiting = [model for model in waiting if not self.probe.is_ready(model, version)]
            if waiting and time.monotonic() > deadline:
                raise ServerError(
                    f"the server did not load {', '.join(waiting)} within {self._startup_timeout:g} s",
                    fix="Give it longer with --startup-timeout.",
                )
            time.sleep(_TICK if waiting else 0)
        self._process.note_models()

    def _await_first_answer(self, version: int) -> None:
        """Wait until a version has answered a request: the radiograph, or one of a client if its queue is full."""
        deadline = time.monotonic() + self._startup_timeout
        while True:
            try:
                self.ask(timeout=1.0, version=version)
            except ServerUnavailableError:
                self._process.raise_if_ended()
                if (self.probe.finished(version) or {}).get(self._names.classifier, (0, 0))[0]:
                    return
                if self._process.dead_models(version) or time.monotonic() > deadline:
                    raise
                time.sleep(_TICK)
            else:
                return
