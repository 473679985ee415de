"""Reads the server's log."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from threading import Event, Thread
from typing import IO

from lrclr.triton.protocol import LAST_ANSWER

# Number of lines that an error quotes of a server's output, and the most characters of each.
_LAST_LINES = 5
_LINE_LENGTH = 200
_GLOG = re.compile(r"^([IWEF])\d{4} [\d:.]+ \d+ [\w.]+:\d+\] ?(.*)$")
_LEVELS = {"I": "info", "W": "warning", "E": "error", "F": "fatal"}
_FAILED = re.compile(r"failed to load '([\w-]+)' version (\d+): (.*)")
_LAST_ANSWER = re.compile(rf"{re.escape(LAST_ANSWER)} (\d+)$")
# Triton has answered the requests in its queues, and unloads models one process after another, or waits until HTTP
# clients close their connections.
_IDLE = re.compile(r"All models are stopped|Timeout \d+: Found \d+ \w+ service connections")
# Logged when Triton's processes take long to end. `TritonServer.stop` checks whether a request was lost.
_LATE = "failed to stop server"
# Logged since Triton tries every configured size with every profile: see `lrclr_export.repository.plan_config`.
_EXPECTED = re.compile(r"Failed to set cuda graph shape for|IExecutionContext::setInputShape: Error Code")
# Messages about a missing GPU.
_NOISE = re.compile(
    r"DCGM|NVML|pinned memory|CUDA memory pool disabled|CudaDriverHelper|GPU metric|cuda_memory", re.IGNORECASE
)


class LogRelay:
    """Reads a server's output in a thread until its end, so that the server never blocks on it.

    Args:
        stream: the server's output.
        on_message: called with level and message.

    Attributes:
        done: process ids of the model `lrclr` that have answered their last request.
        idle: set when a server that is ending has answered the requests in its queues.
    """

    def __init__(self, stream: IO[str], on_message: Callable[[str, str], None]) -> None:
        self._stream, self._on_message = stream, on_message
        self.done: set[int] = set()
        self.idle = Event()
        self._failures: dict[tuple[str, int], str] = {}
        self._errors: deque[str] = deque(maxlen=20)
        self._last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._thread = Thread(target=self._run, name="triton-log", daemon=True)
        self._thread.start()

    def reason(self) -> str | None:
        """The first error that the server logged, of the last twenty; None if there is none."""
        return self._errors[0] if self._errors else None

    def last_lines(self) -> list[str]:
        """The last lines of the output, shortened, whether or not they are messages of the log."""
        return list(self._last_lines)

    def failure(self, model: str, version: int) -> str | None:
        """Why a version of a model could not be loaded; None if the server logged no such error."""
        return self._failures.get((model, version))

    def close(self) -> None:
        """Wait up to five seconds for the end of the output, which another process may keep open."""
        self._thread.join(timeout=5)
        if not self._thread.is_alive():
            # While a thread reads from the stream, closing it would block.
            self._stream.close()

    def _run(self) -> None:
        for line in self._stream:
            if line.strip():
                self._last_lines.append(line.strip()[:_LINE_LENGTH])
            last = _LAST_ANSWER.match(line.rstrip())
            if last:
                self.done.add(int(last[1]))
            match = _GLOG.match(line.rstrip())
            if match is None or _NOISE.search(line):
                continue  # tables and stack traces, which belong to a message
            level, message = _LEVELS[match[1]], match[2].strip().strip('"')
            if message.startswith(_LATE) or _EXPECTED.search(message):
                level = "info"
            if level in {"error", "fatal"}:
                self._errors.append(message)
            failed = _FAILED.match(message)
            if failed:
                # A stack trace follows the reason.
                self._failures[failed[1], int(failed[2])] = failed[3].partition("\\n")[0]
            if _IDLE.match(message):
                self.idle.set()
            try:
                self._on_message(level, message)
            except OSError:
                # A full disk or a closed terminal must not stop the server.
                continue
