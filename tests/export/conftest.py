"""What the tests of the exporter share: bundles and their graphs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests import bundles

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from lrclr.bundle import Golden
    from lrclr.checkpoints import Checkpoint
    from lrclr_export.onnx.onnx_graph import TypedGraph


@pytest.fixture(scope="session")
def checkpoint(quiet_transformers: None, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """What the bundles are made of. Shared: change nothing in it."""
    return bundles.checkpoint(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="session")
def checkpoint_folder(quiet_transformers: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundles.checkpoint_folder(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="session")
def fp32_bundle(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundles.exported(tmp_path_factory.getbasetemp(), "fp32")


@pytest.fixture(scope="session")
def fp32_graphs(fp32_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, TypedGraph]:
    """Shared: put faults into copies only."""
    return bundles.graphs(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="session")
def fp16_bundle(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundles.exported(tmp_path_factory.getbasetemp(), "fp16")


@pytest.fixture(scope="session")
def int8_bundle(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundles.exported(tmp_path_factory.getbasetemp(), "int8")


@pytest.fixture(scope="session")
def golden(fp32_bundle: Path) -> Golden:
    """The gates' inputs and what PyTorch makes of them."""
    from lrclr import Bundle
    from lrclr.bundle import Golden

    return Golden.load(Bundle(fp32_bundle).golden_path)
