"""HTTP answers that must arrive at a least rate. The timeout of requests is for one read: a byte a minute passes it."""

from __future__ import annotations

import http.client
import io
import time
from typing import Any, Final

from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection

_BYTES_PER_SECOND: Final = 16 << 10


class PacedAdapter(HTTPAdapter):  # type: ignore[misc]
    """Gives up an answer, headers included, that is slower than 16 KiB a second after some seconds.

    The error is the one of a read that timed out.

    Args:
        seconds: after the first byte, in which an answer may be slower.
    """

    def __init__(self, seconds: float) -> None:
        def response(*args: Any, **kwargs: Any) -> _PacedResponse:
            return _PacedResponse(seconds, *args, **kwargs)

        plain = type("_Connection", (HTTPConnection,), {"response_class": staticmethod(response)})
        encrypted = type("_SecureConnection", (HTTPSConnection,), {"response_class": staticmethod(response)})
        self._pools = {
            "http": type("_Pool", (HTTPConnectionPool,), {"ConnectionCls": plain}),
            "https": type("_SecurePool", (HTTPSConnectionPool,), {"ConnectionCls": encrypted}),
        }
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = self._pools
        return manager


class _PacedResponse(http.client.HTTPResponse):
    def __init__(self, seconds: float, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fp = io.BufferedReader(_PacedReader(self.fp.detach(), seconds))


class _PacedReader(io.RawIOBase):
    def __init__(self, raw: io.RawIOBase, seconds: float) -> None:
        self._raw, self._seconds = raw, seconds
        self._received, self._first = 0, 0.0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        count = self._raw.readinto(buffer)
        now = time.monotonic()
        self._first = self._first or now
        self._received += count or 0
        if now - self._first > self._seconds + self._received / _BYTES_PER_SECOND:
            raise TimeoutError("the answer is too slow")
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()
