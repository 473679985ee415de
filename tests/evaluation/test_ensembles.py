"""A bundle of checkpoints is evaluated as these checkpoints together, and holds what is fitted for their mean."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from lrclr import Bundle, ZeroShotClassifier
from lrclr.evaluation import EvaluationOptions, EvaluationRun, evaluate, load_scores, save_scores, store
from tests import bundles

if TYPE_CHECKING:
    from pathlib import Path

    from lrclr.datasets import ImageDataset

OPTIONS = EvaluationOptions(resamples=0)


@pytest.fixture(scope="module")
def folder(quiet_transformers: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ensemble whose second member gives the regions. Shared: copy it before changing anything."""
    return bundles.exported_ensemble(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def ensemble(folder: Path) -> ZeroShotClassifier:
    return ZeroShotClassifier.from_bundle(folder)


@pytest.fixture(scope="module")
def judged(ensemble: ZeroShotClassifier, data: ImageDataset) -> EvaluationRun:
    return evaluate(ensemble, data, OPTIONS)


@pytest.mark.parametrize("preset", [None, "chexzero"])
def test_it_is_evaluated_as_its_checkpoints_together(
    ensemble: ZeroShotClassifier, data: ImageDataset, tmp_path_factory: pytest.TempPathFactory, preset: str | None
) -> None:
    base = tmp_path_factory.getbasetemp()
    paths = (bundles.checkpoint_folder(base), bundles.other_checkpoint_folder(base))
    options = replace(OPTIONS, preset=preset)
    together = evaluate((ZeroShotClassifier.from_checkpoint(path) for path in paths), data, options)
    judged = evaluate(ensemble, data, options)
    assert judged.evaluation.alpha == together.evaluation.alpha
    ours, theirs = (run.scores.probability(run.evaluation.alpha) for run in (judged, together))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
    hashes = [model.info["checkpoint_sha256"] for model in together.scores.models]
    assert judged.evaluation.model["ensemble"] == together.evaluation.model["ensemble"] == hashes
    assert judged.evaluation.model["sha256"] == ensemble.spec.sha256


def test_its_regions_are_those_that_are_shown(
    ensemble: ZeroShotClassifier, judged: EvaluationRun, data: ImageDataset
) -> None:
    alone = evaluate(ensemble.members[ensemble.lead], data, replace(OPTIONS, alpha=judged.evaluation.alpha))
    other = evaluate(ensemble.members[0], data, replace(OPTIONS, alpha=judged.evaluation.alpha))
    ours, shown, hidden = (
        [{**asdict(each), "images": 0} for each in run.evaluation.grounding] for run in (judged, alone, other)
    )
    assert ours == shown != hidden


def test_its_scores_are_kept_in_a_file(judged: EvaluationRun, tmp_path: Path) -> None:
    save_scores(judged.scores, tmp_path / "scores.npz")
    read = load_scores(tmp_path / "scores.npz")
    np.testing.assert_array_equal(read.probability(0.3), judged.scores.probability(0.3))


def test_what_is_fitted_for_the_mean_is_stored_in_all_members(
    folder: Path, tmp_path: Path, ensemble: ZeroShotClassifier
) -> None:
    copy = bundles.copied(folder, tmp_path / "bundle")
    store(copy, alpha=0.0, score_scale=2.5, score_bias=-0.3, finding_calibration={"Edema": (4.0, 0.7)})
    stored = ZeroShotClassifier.from_bundle(copy)
    for spec in (stored.spec, *(member.spec for member in stored.members)):
        assert (spec.alpha, spec.calibration.scale, spec.calibration.bias) == (0.0, 2.5, -0.3)
    assert bundles.call("verify", copy).returncode == 0
    side = ensemble.spec.preprocess.image_size
    pixels = np.random.default_rng(0).standard_normal((2, 3, side, side)).astype(np.float32)
    column = ensemble.spec.findings.names.index("Edema")
    gaps = [
        answers.global_positive[:, column] - answers.global_negative[:, column]
        for answers in ensemble.answer_members(pixels)
    ]
    expected = np.mean([1 / (1 + np.exp(-(4.0 * gap + 0.7))) for gap in gaps], axis=0)
    np.testing.assert_allclose(stored.answer_pixels(pixels).probability[:, column], expected, rtol=0, atol=1e-5)
    assert Bundle(copy).sha256 != Bundle(folder).sha256
