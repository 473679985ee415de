"""Who may ask, the headers of every response, and the count of requests."""

from __future__ import annotations

import hmac
import sys
import time
import traceback
from typing import TYPE_CHECKING, Final

from starlette.datastructures import Headers, MutableHeaders

from lrclr._addresses import Address, ip_address
from lrclr.web._problems import HttpProblem, problem_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from lrclr.web._metrics import Metrics
    from lrclr.web._options import WebOptions

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "OPTIONS"})
_SAFE: Final = frozenset({"GET", "HEAD"})
# What the page needs before the user has given the token, and what probes ask. None of it depends on images.
_OPEN_PREFIXES: Final = ("/static/", "/samples/")
_OPEN: Final = frozenset({"/", "/healthz", "/readyz", "/errors", "/api", "/openapi.json"})
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Guard:
    """ASGI middleware around the application.

    Without a token, the process listens on loopback, and the browser of a user there may show a page of any site. The
    header ``Host`` must then name this machine (otherwise a name that leads here could be another site's: DNS
    rebinding), and ``Origin`` must be this page if a request changes something.

    Args:
        app: the application.
        options: the token.
        metrics: counters.
    """

    def __init__(self, app: ASGIApp, options: WebOptions, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics
        self._expected = None if options.token is None else f"Bearer {options.token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0

        async def with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = int(message["status"])
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        try:
            self._check(scope)
            await self._app(scope, receive, with_headers)
        except Exception as error:
            if not isinstance(error, HttpProblem):
                _log(error)
            if status:
                raise
            await problem_of(error)(scope, receive, with_headers)
        finally:
            path = getattr(scope.get("route"), "path", "other")
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._metrics.request(method, path, status, time.perf_counter() - began)

    def _check(self, scope: Scope) -> None:
        """Raise HttpProblem if the request is not allowed."""
        headers = Headers(scope=scope)
        if self._expected is not None:
            path = scope["path"]
            free = scope["method"] in _SAFE and (path in _OPEN or path.startswith(_OPEN_PREFIXES))
            given = headers.get("authorization", "").encode("latin-1")
            # In constant time, so that the time tells nothing about the token.
            if not free and not hmac.compare_digest(given, self._expected):
                raise HttpProblem(
                    401, "a token is missing or wrong. Send Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"}
                )
            return
        host = headers.get("host", "")
        if not _is_local(host):
            raise HttpProblem(403, "the header Host does not name this machine. Use http://127.0.0.1:PORT")
        origin = headers.get("origin")
        if scope["method"] not in _SAFE and origin is not None and origin != f"http://{host}":
            raise HttpProblem(403, "the request comes from a page of another site")


def _is_local(host: str) -> bool:
    """Whether a header Host names this machine's loopback interface."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    where = ip_address(name)
    return bool(name) and (where.is_loopback if where is not None else Address(name, 1).loopback)


def _log(error: Exception) -> None:
    """Write where an unexpected error comes from. Its text may hold what was sent, so it is left out."""
    for frame in traceback.extract_tb(error.__traceback__)[-8:]:
        print(f"  {frame.filename}:{frame.lineno} in {frame.name}", file=sys.stderr)
    print(f"error: unexpected {type(error).__name__}", file=sys.stderr)
