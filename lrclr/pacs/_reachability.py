"""Spares requests to a server that does not answer, or answers with errors only."""

from __future__ import annotations

import threading
import time
from typing import Final

from lrclr.errors import ServerUnavailableError

_FAILURES: Final = 3
_PAUSE: Final = 30.0


class Reachability:
    """Whether a server answers. Safe to call from several threads; can be pickled.

    A request to a server that is down costs its timeout, and a run has thousands of them. After three in a row without
    any answer, a request is made every half minute only, and the others fail at once. An answer ends this.

    Attributes:
        in_doubt: whether the last request failed, and its repetitions too.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._silent, self._next = 0, 0.0
        self.in_doubt = False

    def check(self, place: str) -> None:
        """Raise ServerUnavailableError if no request shall be made now.

        Args:
            place: name of the server, for the error.
        """
        with self._lock:
            if self._silent < _FAILURES:
                return
            now = time.monotonic()
            if now < self._next:
                raise ServerUnavailableError(f"{place} cannot be reached", why="it did not answer the requests before")
            self._next = now + _PAUSE

    def note(self, *, succeeded: bool, answered: bool = True) -> None:
        """Note how a request ended, after its repetitions.

        Args:
            succeeded: whether the server dealt with it.
            answered: whether the server answered at all.
        """
        with self._lock:
            self.in_doubt = not succeeded
            self._silent = 0 if succeeded or answered else self._silent + 1
            if self._silent == _FAILURES:
                self._next = time.monotonic() + _PAUSE

    def __getstate__(self) -> dict[str, object]:
        # Another process finds out for itself.
        return {}

    def __setstate__(self, _state: object) -> None:
        self.__init__()  # type: ignore[misc]
