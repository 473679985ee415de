"""The server's log, one readable line a message."""

from __future__ import annotations

import re
from collections import deque
from threading import Event, Thread
from typing import IO, TYPE_CHECKING

from lrclr.triton.protocol import LAST_ANSWER

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LogRelay"]

_GLOG = re.compile(r"^([IWEF])\d{4} [\d:.]+ \d+ [\w.]+:\d+\] ?(.*)$")
_LEVELS = {"I": "info", "W": "warning", "E": "error", "F": "fatal"}
_FAILED = re.compile(r"failed to load '([\w-]+)' version (\d+): (.*)")
_LAST_ANSWER = re.compile(rf"{re.escape(LAST_ANSWER)} (\d+)$")
# Triton has answered what waited in its queues, and unloads models one process after another; or it waits for HTTP
# clients to close their connections.
_IDLE = re.compile(r"All models are stopped|Timeout \d+: Found \d+ \w+ service connections")
# What Triton says when its processes take long to end. Whether a request was lost, `TritonServer.stop` finds out.
_LATE = "failed to stop server"
# Triton tries every size of the configuration for every profile of a plan: see `lrclr_export.repository.plan_config`.
_EXPECTED = re.compile(r"Failed to set cuda graph shape for|IExecutionContext::setInputShape: Error Code")
# What the stand-in server says about the GPU that it lacks.
_NOISE = re.compile(
    r"DCGM|NVML|pinned memory|CUDA memory pool disabled|CudaDriverHelper|GPU metric|cuda_memory", re.IGNORECASE
)


class LogRelay:
    """Reads a server's output to its end, in a thread, so that it never waits for a reader.

    Args:
        stream: the server's output.
        tell: called with level and message.

    Attributes:
        done: processes of the model `lrclr` that have answered their last request.
        idle: set when the server was told to end and has answered what waited in its queues.
    """

    def __init__(self, stream: IO[str], tell: Callable[[str, str], None]) -> None:
        self._stream, self._tell = stream, tell
        self.done: set[int] = set()
        self.idle = Event()
        self._failures: dict[tuple[str, int], str] = {}
        self._complaints: deque[str] = deque(maxlen=20)
        self._thread = Thread(target=self._run, name="triton-log", daemon=True)
        self._thread.start()

    def reason(self) -> str | None:
        """The server's own word on what went wrong first, if it complained."""
        return self._complaints[0] if self._complaints else None

    def failure(self, model: str, version: int) -> str | None:
        """Why a version of a model could not be loaded, if the server said so."""
        return self._failures.get((model, version))

    def close(self) -> None:
        """Wait until the server's output has ended; give it up if another process still has it."""
        self._thread.join(timeout=5)
        if not self._thread.is_alive():
            # Closing what a thread waits to read from would wait too, for ever.
            self._stream.close()

    def _run(self) -> None:
        for line in self._stream:
            last = _LAST_ANSWER.match(line.rstrip())
            if last:
                self.done.add(int(last[1]))
            match = _GLOG.match(line.rstrip())
            if match is None or _NOISE.search(line):
                continue  # tables and stack traces: the messages beside them say it in words
            level, message = _LEVELS[match[1]], match[2].strip().strip('"')
            if message.startswith(_LATE) or _EXPECTED.search(message):
                level = "info"
            if level in {"error", "fatal"}:
                self._complaints.append(message)
            failed = _FAILED.match(message)
            if failed:
                # The reason goes on with a stack trace.
                self._failures[failed[1], int(failed[2])] = failed[3].partition("\\n")[0]
            if _IDLE.match(message):
                self.idle.set()
            try:
                self._tell(level, message)
            except OSError:
                # A full disk or a closed terminal behind the log must not stop the server behind the port.
                continue
