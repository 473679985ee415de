"""One Triton server over the tiny bundle for all tests of documents and examples."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests import bundles

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lrclr.triton.server import TritonServer


@pytest.fixture(scope="session")
def served(fp16_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A server with one process of the model. Shared: do not change it."""
    from lrclr.triton.server import ServeOptions, TritonServer

    folder = bundles.copied(fp16_bundle, tmp_path_factory.mktemp("served") / "bundle")
    options = ServeOptions(grpc_port=0, http_port=0, metrics_port=0, instances=1, shared_memory=True)
    with TritonServer(folder, options) as running:
        yield running
