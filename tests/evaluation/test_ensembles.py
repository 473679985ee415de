"""A bundle of several checkpoints is evaluated like the checkpoints together. Calibration is fitted for their mean."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from lrclr import Bundle, ZeroShotClassifier, load_checkpoint
from lrclr.evaluation import EvaluationOptions, EvaluationRun, evaluate, load_scores, save_scores, store
from lrclr.inference import ScoreCalibration
from lrclr.verification import task_images
from tests import bundles

if TYPE_CHECKING:
    from pathlib import Path

    from lrclr.datasets import ImageDataset
    from lrclr.inference import ModelSpec

OPTIONS = EvaluationOptions(resamples=0)


@pytest.fixture(scope="module")
def folder(quiet_transformers: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ensemble whose second member gives the regions. Shared: copy it before changing it."""
    return bundles.exported_ensemble(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def ensemble(folder: Path) -> ZeroShotClassifier:
    return ZeroShotClassifier.from_bundle(folder)


@pytest.fixture(scope="module")
def evaluated(ensemble: ZeroShotClassifier, data: ImageDataset) -> EvaluationRun:
    return evaluate(ensemble, data, OPTIONS)


@pytest.mark.parametrize("preset", [None, "chexzero"])
def test_an_ensemble_is_evaluated_like_its_checkpoints_together(
    ensemble: ZeroShotClassifier, data: ImageDataset, tmp_path_factory: pytest.TempPathFactory, preset: str | None
) -> None:
    base = tmp_path_factory.getbasetemp()
    paths = (bundles.checkpoint_folder(base), bundles.other_checkpoint_folder(base))
    options = replace(OPTIONS, preset=preset)
    together = evaluate((ZeroShotClassifier.from_checkpoint(path) for path in paths), data, options)
    evaluated = evaluate(ensemble, data, options)
    assert evaluated.evaluation.alpha == together.evaluation.alpha
    of_bundle, of_checkpoints = (run.scores.probability(run.evaluation.alpha) for run in (evaluated, together))
    np.testing.assert_allclose(of_bundle, of_checkpoints, rtol=0, atol=1e-5)
    hashes = [model.info["checkpoint_sha256"] for model in together.scores.models]
    assert evaluated.evaluation.model["ensemble"] == together.evaluation.model["ensemble"] == hashes
    assert evaluated.evaluation.model["sha256"] == ensemble.spec.sha256


def test_the_evaluated_regions_are_the_displayed_ones(
    ensemble: ZeroShotClassifier, evaluated: EvaluationRun, data: ImageDataset
) -> None:
    alone = evaluate(ensemble.members[ensemble.lead], data, replace(OPTIONS, alpha=evaluated.evaluation.alpha))
    other = evaluate(ensemble.members[0], data, replace(OPTIONS, alpha=evaluated.evaluation.alpha))
    ours, shown, hidden = (
        [{**asdict(each), "images": 0} for each in run.evaluation.grounding] for run in (evaluated, alone, other)
    )
    assert ours == shown != hidden


def test_scores_of_an_ensemble_are_saved(evaluated: EvaluationRun, tmp_path: Path) -> None:
    save_scores(evaluated.scores, tmp_path / "scores.npz")
    read = load_scores(tmp_path / "scores.npz")
    np.testing.assert_array_equal(read.probability(0.3), evaluated.scores.probability(0.3))


def test_members_may_have_a_scale_of_their_own(
    ensemble: ZeroShotClassifier, data: ImageDataset, tmp_path: Path
) -> None:
    """As networks that were trained with their own logits have."""
    scales = iter((2.0, 5.0))

    def own(spec: ModelSpec) -> ModelSpec:
        return replace(spec, calibration=ScoreCalibration(next(scales), 0.1))

    members = [member.changed(own) for member in ensemble.members]
    whole = ZeroShotClassifier(ensemble.spec, ensemble.engine, members=members, lead=ensemble.lead)
    scores = evaluate(whole, data, OPTIONS).scores
    expected = [evaluate(member, data, OPTIONS).scores.probability(scores.alpha) for member in members]
    np.testing.assert_allclose(scores.probability(scores.alpha), np.mean(expected, 0), rtol=0, atol=1e-6)
    side = ensemble.spec.preprocess.image_size
    pixels = np.random.default_rng(0).standard_normal((2, 3, side, side)).astype(np.float32)
    answers = [member.answer_pixels(pixels).probability for member in members]
    np.testing.assert_allclose(whole.answer_pixels(pixels).probability, np.mean(answers, 0), rtol=0, atol=1e-6)
    # In a file, and from models that are given one by one.
    save_scores(scores, tmp_path / "scores.npz")
    np.testing.assert_array_equal(load_scores(tmp_path / "scores.npz").probability(0.0), scores.probability(0.0))
    together = evaluate(iter(members), data, OPTIONS)
    np.testing.assert_allclose(together.scores.calibration, scores.calibration)
    assert np.shape(together.evaluation.settings["calibration_in_effect"]["Edema"]) == (2, 2)


@pytest.mark.slow
def test_fitted_values_are_stored_in_all_members(folder: Path, tmp_path: Path, ensemble: ZeroShotClassifier) -> None:
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


def _members(folder: Path) -> list[Path]:
    """Three trained networks: the default checkpoint, and two copies whose weights were changed by 2 %."""
    paths = []
    for number in range(3):
        checkpoint = load_checkpoint("default")
        generator = torch.Generator().manual_seed(number)
        with torch.no_grad():
            for name, parameter in checkpoint.model.named_parameters():
                if number and not name.startswith("fusion_head."):
                    noise = torch.randn(parameter.shape, generator=generator)
                    parameter.add_(noise * parameter.square().mean().sqrt() * 0.02)
        paths.append(folder / f"member{number}")
        checkpoint.save(paths[-1])
    return paths


def _phantom(folder: Path) -> Path:
    """The labelled radiographs in the package as a dataset, half of them for validation, and their folders."""
    task = task_images()
    lines = [",".join(("image", "split", *task.findings))]
    for number, (image, labels) in enumerate(zip(task.images, task.labels, strict=True)):
        split = "validation" if number % 2 else "test"
        for kind, pixels in ((split, image), ("inverted", 255 - image)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / kind / f"{number}.png")
        lines.append(",".join((f"{split}/{number}.png", split, *(str(int(label)) for label in labels))))
    (folder / "phantom.csv").write_text("\n".join(lines))
    return folder / "phantom.csv"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_ensemble_of_trained_networks_on_labelled_radiographs(tmp_path: Path) -> None:
    """From checkpoints to plans, fitted values and a comparison of archives, by the command line."""

    def run(*arguments: object, code: int = 0) -> str:
        done = bundles.call(*arguments)
        assert done.returncode == code, done.stderr
        return done.stdout

    bundle, data = tmp_path / "bundle", _phantom(tmp_path)
    run("export", *_members(tmp_path), "-o", bundle)
    run("build", bundle, "--engine", "tensorrt-rtx", "--compute-capability", "8.9")
    built = Bundle(bundle)
    assert [len(member.manifest.plans[0]["graphs"]) for member in built.members] == [3, 3, 3]
    plans = [file for file in built.manifest.files if file.endswith(".plan")]
    assert len(plans) == 9
    # TensorRT needs a GPU, which this machine may not have, and its full version is not installed everywhere.
    run("build", bundle, "--engine", "onnxruntime")

    report = json.loads(run("evaluate", bundle, data, "--store", "--json", "--bootstrap", 0))
    alone = [
        json.loads(run("evaluate", tmp_path / f"member{number}", data, "--json", "--bootstrap", 0)) for number in (1, 2)
    ]
    found, members = report["mean"]["auroc"]["value"], [each["mean"]["auroc"]["value"] for each in alone]
    assert found > min(members) > 0.7
    run("verify", bundle)

    for name in ("test", "validation", "inverted"):
        run("score", tmp_path / name, "-b", bundle, "-o", tmp_path / "scores" / name)
    scores = tmp_path / "scores"
    assert "probability_spread" in pq.read_schema(next((scores / "test").rglob("*.parquet"))).names
    run("drift", scores / "validation", scores / "test")
    run("drift", scores / "validation", scores / "inverted", code=3)
