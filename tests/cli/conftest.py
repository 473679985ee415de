"""Fixtures for the tests of the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests import bundles

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def bundle(checkpoint_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fp32 bundle. Shared: copy it before changing it."""
    return bundles.exported(tmp_path_factory.getbasetemp(), "fp32")
