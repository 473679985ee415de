"""Runs the application with uvicorn, until it is stopped."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import uvicorn

from lrclr._signals import handlers
from lrclr.errors import UsageError
from lrclr.web._app import create_app
from lrclr.web._options import WebOptions

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType
    from typing import Self

    from lrclr.web._backend import Backend


class WebServer:
    """Listens, and answers in the calling thread (`run`) or in a thread of its own (as a context manager).

    Args:
        backend: the model.
        options: options with the address, the token and limits.

    Attributes:
        url: address of the page.

    Raises:
        UsageError: the address cannot be listened on.
    """

    def __init__(self, backend: Backend, options: WebOptions | None = None) -> None:
        options = options or WebOptions()
        family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
        try:
            self._socket = socket.create_server((options.host, options.port), family=family, backlog=128)
        except OSError as error:
            raise UsageError(
                f"lrclr web cannot listen on {options.host}, port {options.port}",
                why=error.strerror,
                fix="Choose another port with --port; 0 for any free one.",
            ) from None
        # A client that does not read its answer would keep the connection for ever: uvicorn has no limit for that. The
        # system ends it (tcp(7)). Connections get this option from the socket that listens.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, int(options.body_seconds * 1000)))
        host = f"[{options.host}]" if family == socket.AF_INET6 else options.host
        self.url = f"http://{host}:{self._socket.getsockname()[1]}"
        # Paths hold keys of images, so requests are not logged. A proxy's headers are not believed.
        config = uvicorn.Config(
            create_app(backend, options),
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            # Connections, most of which may wait for a request. Beyond it, uvicorn itself answers with 503.
            limit_concurrency=256,
            timeout_graceful_shutdown=5,
        )
        self._server = _Uvicorn(config, options.body_seconds)
        self._thread: threading.Thread | None = None

    def run(self) -> None:
        """Answer until SIGTERM or Ctrl-C. Requests that are running are answered first."""
        self._server.run([self._socket])

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self.run, name="lrclr web", daemon=True)
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
            self._thread.join(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join()
        self._socket.close()


class _Uvicorn(uvicorn.Server):
    """Ends without an error when a signal stops it, and closes connections on which no request arrives.

    uvicorn repeats the signal that stopped it, which would end the process with an error. It waits without a limit for
    the head of a request, so that a few hundred silent connections would keep others out.

    Args:
        config: uvicorn's configuration.
        silence: seconds for which a connection may be without a request.
    """

    def __init__(self, config: uvicorn.Config, silence: float) -> None:
        super().__init__(config)
        self._silence = silence
        self._silent_since: dict[Any, float] = {}

    async def on_tick(self, counter: int) -> bool:
        now = time.monotonic()
        silent = [one for one in self.server_state.connections if _is_silent(one)]
        self._silent_since = {one: self._silent_since.get(one, now) for one in silent}
        for one, since in self._silent_since.items():
            if now - since > self._silence:
                one.transport.close()
        return await super().on_tick(counter)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(_number: int, _frame: FrameType | None) -> None:
            self.should_exit = True

        with handlers({signal.SIGTERM: stop, signal.SIGINT: stop}):
            yield


def _is_silent(connection: Any) -> bool:
    """Whether no request of a connection is being answered."""
    return connection.cycle is None or connection.cycle.response_complete
