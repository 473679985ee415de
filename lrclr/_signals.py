"""Signals that stop a command."""

from __future__ import annotations

import atexit
import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any, Final

_REPEATED: Final = 2.0  # seconds; time enough to save a part of an archive
_DEFAULTS: Final[dict[signal.Signals, Any]] = {
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGINT: signal.default_int_handler,
}


class _StopHandler:
    """Handler of stop signals. It raises in a block, and ignores repeated signals until two seconds after that."""

    def __init__(self) -> None:
        self._last = float("-inf")
        self._raised: int | None = None
        self.ended = False

    def __call__(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self.ignores_signals:
            return
        if self.ended:
            signal.signal(number, _DEFAULTS[signal.Signals(number)])
            signal.raise_signal(number)
            return
        self._last, self._raised = time.monotonic(), number
        self.raise_again()

    def raise_again(self) -> None:
        """Raise for the last signal, if there was one."""
        if self._raised == signal.SIGINT:
            raise KeyboardInterrupt
        if self._raised is not None:
            raise SystemExit(128 + self._raised)

    @property
    def ignores_signals(self) -> bool:
        """Whether it raised in the last two seconds."""
        return time.monotonic() - self._last < _REPEATED

    def install(self) -> list[signal.Signals]:
        """Replace the default handlers, and handlers of blocks that have ended. Returns their signals."""
        replaced = []
        for one, default in _DEFAULTS.items():
            before = signal.getsignal(one)
            if before is default or (isinstance(before, _StopHandler) and before.ended):
                signal.signal(one, self)
                replaced.append(one)
        return replaced

    def end(self, installed: list[signal.Signals]) -> None:
        """Restore the default handlers; at once, or with the first signal that is not a repeated one."""
        self.ended = True
        if not self.ignores_signals:
            for one in installed:
                signal.signal(one, _DEFAULTS[one])
            return
        # Python restores the default handlers before the process has ended, and an ignored signal stays ignored.
        atexit.register(self._ignore_at_exit, installed)

    def _ignore_at_exit(self, installed: list[signal.Signals]) -> None:
        for one in installed:
            if self.ignores_signals and signal.getsignal(one) is self:
                signal.signal(one, signal.SIG_IGN)


@contextlib.contextmanager
def handlers(by_signal: Mapping[signal.Signals, Callable[[int, FrameType | None], object]]) -> Iterator[None]:
    """Set handlers of signals in a block, and restore the previous ones after it."""
    before = {one: signal.signal(one, handler) for one, handler in by_signal.items()}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def raise_again_if_stopped() -> None:
    """Raise for a signal of a block of `stop_signals_raise` that goes on.

    Python prints and drops an exception that a handler raises while an object is deleted.
    """
    for one in _DEFAULTS:
        handler = signal.getsignal(one)
        if isinstance(handler, _StopHandler):
            handler.raise_again()


@contextlib.contextmanager
def stop_signals_raise() -> Iterator[None]:
    """Turn SIGTERM into `SystemExit(143)` and SIGINT into `KeyboardInterrupt`, so that `finally` blocks run.

    A signal less than two seconds after the last one that raised is ignored, since a program such as `timeout` sends
    two within milliseconds, and the second must not stop what saves the work after the first. This also holds after
    the block, so that the second does not change the exit code.
    A handler that the application installed is kept. Only the main thread can set handlers; in another thread this
    does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = _StopHandler()
    installed = handler.install()
    try:
        yield
    finally:
        handler.end(installed)
