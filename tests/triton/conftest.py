"""A real Triton server over a real bundle, started once."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from lrclr import ZeroShotClassifier
from lrclr.evaluation import store
from lrclr.triton.server import ServeOptions, TritonServer
from tests import bundles

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ANY_PORTS = ServeOptions(grpc_port=0, http_port=0, metrics_port=0)


@pytest.fixture(scope="session")
def folder(quiet_transformers: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with a bias and a calibrated finding. Shared: copy it before changing it."""
    folder = bundles.copied(
        bundles.exported(tmp_path_factory.getbasetemp(), "fp16"), tmp_path_factory.mktemp("served") / "bundle"
    )
    store(folder, alpha=None, score_scale=1.5, score_bias=-0.4, finding_calibration={"Edema": (3.0, 0.7)})
    return folder


@pytest.fixture(scope="session")
def log() -> list[str]:
    """All lines that `server` has logged."""
    return []


@pytest.fixture(scope="session")
def server(folder: Path, log: list[str]) -> Iterator[TritonServer]:
    """A server with shared memory and four processes of the model. Shared: do not change it."""
    options = replace(ANY_PORTS, shared_memory=True, instances=4)
    with TritonServer(folder, options, on_log=lambda _level, text: log.append(text)) as running:
        yield running


@pytest.fixture(scope="session")
def single(folder: Path) -> Iterator[TritonServer]:
    """A server without shared memory and with one process of the model. Shared: do not change it."""
    with TritonServer(folder, replace(ANY_PORTS, instances=1)) as running:
        yield running


@pytest.fixture(scope="session")
def local(folder: Path) -> ZeroShotClassifier:
    """A classifier with the same bundle without a server. Answers must equal its answers."""
    return ZeroShotClassifier.from_bundle(folder)
