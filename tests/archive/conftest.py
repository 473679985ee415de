"""What the tests of scoring share."""

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
    """Shared: copy it before changing anything."""
    return bundles.exported(tmp_path_factory.getbasetemp(), "fp32")


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared: copy it before changing anything."""
    return archives.make_archive(tmp_path_factory.mktemp("archive"))


@pytest.fixture(scope="session")
def scored(archive: Path, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scores of `archive`. Shared likewise."""
    folder = tmp_path_factory.mktemp("scores") / "out"
    score(archive, folder, archives.options(bundle))
    return folder
