"""Signals that stop a command."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

__all__ = ["stop_signals_raise"]

_REPEATED: Final = 2.0  # seconds; time enough to save a part of an archive
_DEFAULTS: Final[dict[signal.Signals, Any]] = {
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGINT: signal.default_int_handler,
}


@contextlib.contextmanager
def stop_signals_raise() -> Iterator[None]:
    """Turn SIGTERM into `SystemExit(143)` and SIGINT into `KeyboardInterrupt`, so that `finally` blocks run.

    A signal less than two seconds after the last one that raised is ignored, since a program such as `timeout` sends
    two within milliseconds, and the second must not stop what saves the work after the first.
    A handler that the application installed is kept. Only the main thread can set handlers; in another thread this
    does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    last = float("-inf")

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        nonlocal last
        now = time.monotonic()
        if now - last < _REPEATED:
            return
        last = now
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    ours = [one for one, default in _DEFAULTS.items() if signal.getsignal(one) is default]
    for one in ours:
        signal.signal(one, stop)
    try:
        yield
    finally:
        for one in ours:
            signal.signal(one, _DEFAULTS[one])
