"""The page and the REST API of `lrclr web`. It needs the extra ``web``."""

from __future__ import annotations

from lrclr.web._app import create_app
from lrclr.web._backend import Backend, BundleBackend, ServerBackend, open_backend
from lrclr.web._options import WebOptions, read_token
from lrclr.web._problems import STATUS
from lrclr.web._server import WebServer

__all__ = [
    "STATUS",
    "Backend",
    "BundleBackend",
    "ServerBackend",
    "WebOptions",
    "WebServer",
    "create_app",
    "open_backend",
    "read_token",
]
