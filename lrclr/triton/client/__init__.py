"""Clients for `lrclr serve`, or for any Triton server with a bundle. They need the extra ``serve``."""

from __future__ import annotations

from lrclr.triton.client._aio import AsyncClient
from lrclr.triton.client._client import Client
from lrclr.triton.client._engine import TritonEngine
from lrclr.triton.client._files import predict_files
from lrclr.triton.client._options import ClientOptions
from lrclr.triton.client._wire import Reply

__all__ = ["AsyncClient", "Client", "ClientOptions", "Reply", "TritonEngine", "predict_files"]
