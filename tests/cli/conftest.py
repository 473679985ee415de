"""What the tests of the command line share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests import bundles

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def bundle(checkpoint_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared: copy it before changing anything."""
    return bundles.exported(tmp_path_factory.getbasetemp(), "fp32")
