"""Fixtures for the tests of `lrclr score`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lrclr.archive import score
from tests import bundles
from tests.archive import archives

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def bundle(quiet_transformers: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fp32 bundle. Shared: copy it before changing it."""
    return bundles.exported(tmp_path_factory.getbasetemp(), "fp32")


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive with good and damaged files. Shared: copy it before changing it."""
    return archives.make_archive(tmp_path_factory.mktemp("archive"))


@pytest.fixture(scope="session")
def scored(archive: Path, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scores of `archive`. Shared: copy the folder before changing it."""
    folder = tmp_path_factory.mktemp("scores") / "out"
    score(archive, folder, archives.options(bundle))
    return folder
