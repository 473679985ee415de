"""Features of images by an ensemble."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lrclr import Finding, FindingSet, ZeroShotClassifier
from lrclr.samples import sample_paths
from tests import bundles

if TYPE_CHECKING:
    from lrclr import Prediction


def figures_of(prediction: Prediction) -> list[tuple[float, float | None]]:
    return [(each.probability, each.probability_spread) for each in prediction.findings]


def test_an_ensemble_predicts_from_features(tmp_path_factory: pytest.TempPathFactory) -> None:
    classifier = ZeroShotClassifier.from_bundle(bundles.exported_ensemble(tmp_path_factory.getbasetemp()))
    assert len(classifier.members) > 1
    features = classifier.encode_images(sample_paths())
    for findings in (None, FindingSet((Finding("gas"),))):
        for alpha in (None, 0.0, 0.7):
            expected = classifier.predict(sample_paths(), findings=findings, alpha=alpha)
            from_features = classifier.predict_features(features, findings, alpha)
            for actual_prediction, expected_prediction in zip(from_features, expected, strict=True):
                assert actual_prediction.regions == expected_prediction.regions
                for left, right in zip(figures_of(actual_prediction), figures_of(expected_prediction), strict=True):
                    assert left == pytest.approx(right, abs=1e-6)
