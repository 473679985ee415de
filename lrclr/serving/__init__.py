"""A bundle behind a port: a Triton server that is started, watched and stopped. Needs the extra ``serve``."""

from __future__ import annotations

from lrclr.serving._options import ServeOptions
from lrclr.serving._server import TritonServer

__all__ = ["ServeOptions", "TritonServer"]
