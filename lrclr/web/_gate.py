"""A bounded number of requests computes, a bounded number waits, and the others are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.to_thread

from lrclr.errors import ServerUnavailableError

Result = TypeVar("Result")
_RETRY_SECONDS = 1.0


class Gate:
    """Runs work of requests in threads.

    Args:
        running: requests that compute at a time.
        queued: requests that wait.

    Attributes:
        pending: requests that compute or wait.
        refused: requests that were refused.
    """

    def __init__(self, running: int, queued: int) -> None:
        self._running, self._most = running, running + queued
        self._limiter: anyio.CapacityLimiter | None = None
        self.pending = 0
        self.refused = 0

    async def run(self, work: Callable[[], Result]) -> Result:
        """Do `work` in a thread, and return its result.

        Raises:
            ServerUnavailableError: too many requests wait.
        """
        if self.pending >= self._most:
            self.refused += 1
            raise busy("too many requests wait")
        # Not in `__init__`: it belongs to the running event loop.
        self._limiter = self._limiter or anyio.CapacityLimiter(self._running)
        self.pending += 1
        try:
            return await anyio.to_thread.run_sync(work, limiter=self._limiter)
        finally:
            self.pending -= 1


def busy(why: str) -> ServerUnavailableError:
    """The error for a request that may be repeated soon."""
    error = ServerUnavailableError("lrclr web is busy", why=why, fix=f"Repeat after {_RETRY_SECONDS:g} s.")
    error.retry_after = _RETRY_SECONDS
    return error
