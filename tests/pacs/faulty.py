"""A proxy in front of a DICOMweb server that answers some requests itself, with errors."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import requests

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Answer = tuple[int, dict[str, str], bytes]
Fault = Callable[[int, "Request"], Answer | None]


class Request:
    """A request from a client.

    Attributes:
        method: HTTP method.
        path: path with parameters.
        headers: headers by name.
    """

    def __init__(self, method: str, path: str, headers: dict[str, str]) -> None:
        self.method, self.path, self.headers = method, path, headers


class Proxy:
    """Attributes:
    url: address of the proxy.
    seen: requests, in order.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.seen: list[Request] = []


@contextmanager
def proxy(target: str, fault: Fault, certificate: Path | None = None) -> Iterator[Proxy]:
    """Forward requests to `target`, except those that `fault`, called with the request's number, answers itself.

    With a certificate (PEM of a key and its certificate), the proxy uses TLS.
    """
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            request = Request(self.command, self.path, dict(self.headers))
            with lock:
                number = len(found.seen)
                found.seen.append(request)
            answer = fault(number, request)
            if answer is None:
                headers = {key: value for key, value in request.headers.items() if key.lower() != "host"}
                got = requests.request(self.command, target + self.path, headers=headers, data=body, timeout=30)
                kept = {key: got.headers[key] for key in ("Content-Type", "Warning") if key in got.headers}
                answer = (got.status_code, kept, got.content)
            status, kept, content = answer
            if status == 0:
                # The connection is closed.
                self.close_connection = True
                return
            self.send_response(status)
            for key, value in kept.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    found = Proxy(f"http{'s' if certificate else ''}://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
