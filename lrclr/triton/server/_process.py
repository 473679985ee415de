"""The processes of one server: tritonserver, its children, and the guard that ends them if this program is killed."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING, Final

from lrclr.errors import ServerError
from lrclr.triton.server import _guard
from lrclr.triton.server._log import LogRelay
from lrclr.triton.server._processes import backends_of, kill_group, unsent_bytes
from lrclr.triton.server._shared_memory import restrict_regions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from lrclr.triton.server._shared_memory import Claim

# Seconds that requests which clients send to the graphs directly have when the server ends.
_GRAPHS_SECONDS: Final = 1.0
# Seconds without unsent bytes after which all answers count as sent. A round trip takes less.
_QUIET: Final = 0.3


class ServerProcess:
    """A running tritonserver.

    Args:
        command: program and arguments.
        environment: environment of the server.
        claim: the folder and shared memory of the server.
        on_log: called with level and message of each line of the server's log.

    Attributes:
        log: the server's log.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], claim: Claim, on_log: Callable[[str, str], None]
    ) -> None:
        self._claim, self._program = claim, command[0]
        self._models: dict[int, tuple[str, int]] = {}
        # Ctrl-C in a terminal is sent to a whole process group. It is meant for this process, which stops the server in
        # order. So the guard makes a new group, and the server joins it.
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_guard.__file__), str(claim.folder), claim.prefix],
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,
        )
        try:
            self._server = subprocess.Popen(
                command,
                env=environment,
                cwd=claim.folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                process_group=self._guard.pid,
                pass_fds=[claim.descriptor],
            )
        except OSError as error:
            self._end_group()
            raise ServerError(
                f"{command[0]} cannot be run", why=error.strerror, fix="Give the path of tritonserver with --server."
            ) from error
        except BaseException:
            self._end_group()
            raise
        assert self._server.stdout is not None  # noqa: S101 - for the type checker
        self.log = LogRelay(self._server.stdout, on_log)

    @property
    def pid(self) -> int:
        """Process id of tritonserver."""
        return self._server.pid

    @property
    def running(self) -> bool:
        """Whether tritonserver has not ended."""
        return self._server.poll() is None

    def raise_if_ended(self, *, at_start: bool = False) -> None:
        """Raise ServerError if tritonserver has ended.

        Args:
            at_start: whether the server has not answered yet. Its output then holds nothing of a request, and the error
                quotes its last lines if it logged no error.
        """
        if self.running:
            return
        # A child process that waits for its dead server keeps the log open.
        kill_group(self._guard.pid)
        self.log.close()
        why, fix = self.log.reason(), None
        if why is None and at_start:
            lines = self.log.last_lines()
            why = f"its last output is: {' | '.join(lines)}" if lines else "it printed nothing"
            fix = f"Check that {self._program} is Triton's server, and that it runs here: {self._program} --help"
        raise ServerError(f"the server ended with exit code {self._server.returncode}", why=why, fix=fix)

    def wait(self, seconds: float) -> None:
        """Sleep, or less if tritonserver ends."""
        try:
            self._server.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return

    def living(self, model: str, version: int) -> list[int]:
        """Process ids of a version of a model that have not ended."""
        return [
            one.pid for one in backends_of(self.pid) if (one.model, one.version) == (model, version) and not one.dead
        ]

    def versions(self, model: str) -> dict[int, set[int]]:
        """Process ids by version of a model."""
        found: dict[int, set[int]] = {}
        for backend in backends_of(self.pid):
            if backend.model == model:
                found.setdefault(backend.version, set()).add(backend.pid)
        return found

    def note_models(self) -> None:
        """Record the model of each child process, since a dead process does not show it.

        Also make the shared memory of models that were loaded since readable for this account only.
        """
        restrict_regions(self._claim.prefix)
        for backend in backends_of(self.pid):
            if backend.model:
                self._models[backend.pid] = (backend.model, backend.version)

    def dead_models(self, version: int) -> list[str]:
        """Models of a version that have a dead process."""
        dead = [self._models.get(backend.pid, ("", 0)) for backend in backends_of(self.pid) if backend.dead]
        return [model for model, its in dead if its == version]

    def end(self, ports: set[int], deadline: float) -> None:
        """End tritonserver once its answers have been sent.

        Args:
            ports: ports of the server.
            deadline: deadline in the time of `time.monotonic`, after which unsent answers are lost.
        """
        self._server.terminate()
        self.log.idle.wait(_GRAPHS_SECONDS)
        quiet = time.monotonic()
        while self.running and time.monotonic() - quiet < _QUIET:
            if unsent_bytes(ports) and time.monotonic() < deadline:
                quiet = time.monotonic()
            time.sleep(0.02)
        # Triton ends its Python processes one after another, which takes more than a second for each.
        self._server.kill()

    def close(self) -> None:
        """Kill what still runs, and wait for it."""
        self._end_group()
        self._server.wait()
        self.log.close()

    def _end_group(self) -> None:
        kill_group(self._guard.pid)
        self._guard.wait()
        assert self._guard.stdin is not None  # noqa: S101 - for the type checker
        self._guard.stdin.close()
