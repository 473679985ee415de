"""A checkpoint as an engine fulfils the same contract as a bundle and is not changed."""

from __future__ import annotations

import copy
import subprocess
from dataclasses import fields
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from lrclr import Finding, FindingSet, ZeroShotClassifier, read_image
from lrclr.engines import TorchEngine
from lrclr.errors import EngineError, ImageError, UsageError
from lrclr.inference import Answers
from lrclr.preprocessing import preprocess_batch
from lrclr.samples import sample_paths
from tests import bundles

if TYPE_CHECKING:
    from pathlib import Path

    from lrclr.checkpoints import Checkpoint

IMAGES = [read_image(path) for path in sample_paths()]
FINDINGS = FindingSet((Finding("Edema", ("{}", "wet lungs"), ("no {}", "dry lungs", "clear")), Finding("Fracture")))


@pytest.fixture(scope="module")
def bundle(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> ZeroShotClassifier:
    return ZeroShotClassifier.from_bundle(bundles.exported(tmp_path_factory.getbasetemp(), "fp32"))


def test_a_checkpoint_gives_the_same_answers_as_its_bundle(checkpoint: Checkpoint, bundle: ZeroShotClassifier) -> None:
    network = ZeroShotClassifier.from_checkpoint(checkpoint)
    pixels = preprocess_batch(IMAGES, checkpoint.preprocess)
    from_checkpoint, from_bundle = network.answer_pixels(pixels, FINDINGS), bundle.answer_pixels(pixels, FINDINGS)
    for field in fields(Answers):
        got, expected = getattr(from_checkpoint, field.name), getattr(from_bundle, field.name)
        if expected is None:
            assert got is None, field.name
            continue
        assert got.dtype == expected.dtype
        assert got == pytest.approx(expected, abs=2e-5), field.name
    for name in ("alpha", "calibration", "patch_size", "fusion_trained", "findings", "preprocess", "checkpoint_sha256"):
        assert getattr(network.spec, name) == getattr(bundle.spec, name)
    assert network.spec.sha256 != bundle.spec.sha256
    assert "torch" in network.engine.name


def test_a_checkpoint_is_read_from_its_path(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = bundles.checkpoint_folder(tmp_path_factory.getbasetemp())
    classifier = ZeroShotClassifier.from_checkpoint(folder)
    expected = ZeroShotClassifier.from_checkpoint(checkpoint).predict(IMAGES[:1])
    assert classifier.predict(IMAGES[:1]) == expected
    with pytest.raises(UsageError, match="its model is a checkpoint"):
        assert classifier.bundle
    with pytest.raises(UsageError, match="not trained"):
        ZeroShotClassifier.from_checkpoint(untrained()).predict(IMAGES[:1], alpha=0.5)


def untrained() -> Checkpoint:
    from lrclr.checkpoints import init_checkpoint

    return init_checkpoint("tiny")


@pytest.mark.parametrize("classes", ["bundle", "checkpoint"])
def test_predictions_are_built_from_the_arrays(
    classes: str, checkpoint: Checkpoint, bundle: ZeroShotClassifier
) -> None:
    classifier = bundle if classes == "bundle" else ZeroShotClassifier.from_checkpoint(checkpoint)
    pixels = preprocess_batch(IMAGES, checkpoint.preprocess)
    answers = classifier.answer_pixels(pixels, FINDINGS, 0.3)
    for b, prediction in enumerate(classifier.predict(IMAGES, findings=FINDINGS, alpha=0.3)):
        assert [region.patch for region in prediction.regions] == answers.region_index[b].tolist()
        assert [region.importance for region in prediction.regions] == answers.region_importance[b].tolist()
        for f, finding in enumerate(prediction.findings):
            for name in ("probability", "global_positive", "global_negative", "local_positive", "local_negative"):
                assert getattr(finding, name) == getattr(answers, name)[b, f]
            assert finding.region_attention == tuple(answers.region_attention[b, f].tolist())
    with pytest.raises(ImageError, match="expected"):
        classifier.answer_pixels(pixels[:0])
    with pytest.raises(UsageError, match="between 0 and 1"):
        classifier.answer_pixels(pixels, alpha=1.5)


def test_a_network_in_training_is_not_changed(checkpoint: Checkpoint) -> None:
    model = copy.deepcopy(checkpoint.model)
    model.train()
    model.text_model.eval()
    for parameter in model.fusion_head.parameters():
        parameter.requires_grad_(True)
    before = [module.training for module in model.modules()]
    engine = TorchEngine(model)
    side = checkpoint.preprocess.image_size
    outputs = engine.run("image_encoder", {"pixel_values": np.zeros((2, 3, side, side), np.float32)})
    with pytest.raises(EngineError, match="text_encoder"):
        engine.run("text_encoder", {"input_ids": np.full((1, 500), 1)})
    assert [module.training for module in model.modules()] == before
    assert {name: array.shape[0] for name, array in outputs.items()} == dict.fromkeys(outputs, 2)
    for name, array in outputs.items():
        # The output is a copy without a gradient, which the network cannot overwrite.
        assert array.dtype == (np.int64 if name == "region_index" else np.float32)
    loss = model.fusion_head(torch.zeros(1, 5, 128), torch.zeros(1, 4, 64), torch.ones(1, 4, dtype=torch.int64))[
        0
    ].sum()
    loss.backward()


def test_unsupported_options_are_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(EngineError, match="device"):
        TorchEngine(copy.deepcopy(checkpoint.model), "abacus")
    with pytest.raises(EngineError, match="unknown graph"):
        TorchEngine(checkpoint.model).run("decoder", {})


@pytest.mark.parametrize(
    "module",
    ["lrclr.engines", "lrclr.inference", "lrclr.evaluation", "lrclr.bench"],
)
def test_engines_are_imported_without_torch(module: str, tmp_path: Path) -> None:
    # Evaluation needs the extra `evaluate`, which installs scikit-learn.
    heavy = {"torch"} if module == "lrclr.evaluation" else {"torch", "sklearn"}
    code = f"import sys, {module}\nassert not {heavy} & set(sys.modules)"
    done = subprocess.run([bundles.PYTHON, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
