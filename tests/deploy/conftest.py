"""A bundle, and a real server with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lrclr.triton.server import ServeOptions, TritonServer
from tests import bundles

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def folder(quiet_transformers: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle. Shared: copy it before changing it."""
    return bundles.exported(tmp_path_factory.getbasetemp(), "fp16")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[TritonServer]:
    """A server with this bundle and two processes of the model."""
    with TritonServer(folder, ServeOptions(grpc_port=0, http_port=0, metrics_port=0, instances=2)) as running:
        yield running
