"""Features of images by an ensemble."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lrclr import Finding, FindingSet, ZeroShotClassifier
from lrclr.samples import sample_paths
from tests import bundles

if TYPE_CHECKING:
    from lrclr import Prediction


def figures(prediction: Prediction) -> list[tuple[float, float | None]]:
    return [(each.probability, each.probability_spread) for each in prediction.findings]


def test_an_ensemble_answers_from_features(tmp_path_factory: pytest.TempPathFactory) -> None:
    classifier = ZeroShotClassifier.from_bundle(bundles.exported_ensemble(tmp_path_factory.getbasetemp()))
    assert len(classifier.members) > 1
    features = classifier.encode_images(sample_paths())
    for findings in (None, FindingSet((Finding("gas"),))):
        for alpha in (None, 0.0, 0.7):
            wanted = classifier.predict(sample_paths(), findings=findings, alpha=alpha)
            made = classifier.predict_features(features, findings, alpha)
            for one, other in zip(made, wanted, strict=True):
                assert one.regions == other.regions
                for left, right in zip(figures(one), figures(other), strict=True):
                    assert left == pytest.approx(right, abs=1e-6)
