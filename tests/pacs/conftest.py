"""Fixtures for the tests with a PACS."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lrclr.inference import ZeroShotClassifier
from tests.pacs.orthanc import Orthanc
from tests.pacs.studies import study

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STUDIES = 12


@pytest.fixture(scope="session")
def classifier(fp32_bundle: Path) -> ZeroShotClassifier:
    return ZeroShotClassifier.from_bundle(fp32_bundle)


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """Twelve studies. Shared: tests store other objects in separate studies, and no digital radiographs."""
    with Orthanc(tmp_path_factory.mktemp("archive")) as orthanc:
        orthanc.add(*(study(number) for number in range(STUDIES)))
        yield orthanc


@pytest.fixture(scope="session")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """Receives results. Shared: tests look only for the results of their own studies."""
    with Orthanc(tmp_path_factory.mktemp("target")) as orthanc:
        yield orthanc
