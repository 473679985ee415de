"""Predictions that the tests of DICOM results share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lrclr.dicom_results import KINDS, DicomSource, ResultBuilder, ResultModel
from lrclr.images import read_image
from lrclr.inference import ZeroShotClassifier
from lrclr.samples import SAMPLES

if TYPE_CHECKING:
    from pathlib import Path

    from lrclr.dicom_results import Kind
    from lrclr.inference import Prediction


@pytest.fixture(scope="session")
def classifier(fp32_bundle: Path) -> ZeroShotClassifier:
    return ZeroShotClassifier.from_bundle(fp32_bundle)


@pytest.fixture(scope="session")
def predictions(classifier: ZeroShotClassifier) -> dict[str, Prediction]:
    """Predictions of the four samples, by name."""
    images = [read_image(sample.path("dicom")) for sample in SAMPLES]
    return dict(zip((sample.name for sample in SAMPLES), classifier.predict(images), strict=True))


@pytest.fixture(scope="session")
def model(classifier: ZeroShotClassifier) -> ResultModel:
    return ResultModel(classifier.spec.sha256, classifier.spec.findings)


@pytest.fixture(scope="session")
def objects(
    model: ResultModel, predictions: dict[str, Prediction], tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, Kind], Path]:
    """Files of every kind for every sample."""
    folder = tmp_path_factory.mktemp("objects")
    files = {}
    for sample in SAMPLES:
        source = DicomSource.read(sample.path("dicom").read_bytes())
        for kind in KINDS:
            picture = read_image(sample.path("dicom")) if kind == "sc" else None
            files[sample.name, kind] = folder / f"{sample.name}.{kind}.dcm"
            content = ResultBuilder(model).build(kind, source, predictions[sample.name], picture)
            files[sample.name, kind].write_bytes(content)
    return files
