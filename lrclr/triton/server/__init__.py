"""Start, monitor and stop a Triton server for a bundle. Needs the extra ``serve``."""

from __future__ import annotations

from lrclr.triton.server._locate import find_server
from lrclr.triton.server._options import ServeOptions
from lrclr.triton.server._server import TritonServer

__all__ = ["ServeOptions", "TritonServer", "find_server"]
