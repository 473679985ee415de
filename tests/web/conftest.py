"""The application over the tiny bundle, and a server with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

pytest.importorskip("fastapi")

from starlette.testclient import TestClient

from lrclr import ZeroShotClassifier
from lrclr.web import BundleBackend, WebOptions, WebServer, create_app

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOCAL = "http://127.0.0.1:8080"


@pytest.fixture(scope="session")
def classifier(fp32_bundle: Path) -> ZeroShotClassifier:
    return ZeroShotClassifier.from_bundle(fp32_bundle)


@pytest.fixture(scope="session")
def backend(classifier: ZeroShotClassifier) -> BundleBackend:
    return BundleBackend(classifier)


@pytest.fixture(scope="session")
def client(backend: BundleBackend) -> Iterator[TestClient]:
    """Sends requests to the application without a token. Shared: images that a test keeps must not affect others."""
    with TestClient(create_app(backend), base_url=LOCAL) as client:
        yield client


@pytest.fixture(scope="session")
def running(backend: BundleBackend) -> Iterator[WebServer]:
    """uvicorn on a free port. Shared: do not change it."""
    with WebServer(backend, WebOptions(port=0)) as server:
        yield server
