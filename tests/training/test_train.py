"""Training tunes a network, which then recognises findings in unseen images."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from lrclr.card import Metric, ModelCard
from lrclr.checkpoints import load_checkpoint
from lrclr.datasets import read_dataset
from lrclr.errors import LrclrError
from lrclr.images import read_image
from lrclr.preprocessing import preprocess_batch
from lrclr.training import Augmentation, LossSettings, TrainListener, TrainSettings, train
from tests import bundles
from tests.families.test_families import ORIGINALS
from tests.training.conftest import start

if TYPE_CHECKING:
    from pathlib import Path

    from lrclr.checkpoints import Checkpoint
    from tests.training.conftest import Dataset

QUICK: dict[str, Any] = {"workers": 0, "augmentation": Augmentation.off(), "batch_size": 16}


def test_training_learns_from_reports(base: Checkpoint, dataset: Dataset, tmp_path: Path) -> None:
    """From random weights with every part tuned, tested on unseen images without code of this package."""
    settings = TrainSettings(
        **QUICK,
        max_steps=40,
        evaluate_every=20,
        save_every=40,
        learning_rate=2e-3,
        tower_learning_rate=5e-4,
        freeze="none",
        text="sentences",
    )
    card = ModelCard({"training_data": "Everything.", "limits": "None."}, (Metric("AUROC", 1.0),))
    result = train(replace(base, card=card), read_dataset(dataset()), tmp_path / "run", settings)
    assert result.auroc is not None
    assert result.auroc > 0.9
    tuned = load_checkpoint(result.checkpoint)
    assert tuned.config.fusion_trained
    data = read_dataset(dataset()).only("validation").rows
    images = [read_image(row.image) for row in data]
    with torch.no_grad():
        encoding = tuned.model.encode_image(torch.from_numpy(preprocess_batch(images, tuned.preprocess)))
        tokens = tuned.tokenizer.encode(["Lung Opacity", "no Lung Opacity"])
        ids, mask = torch.from_numpy(tokens.input_ids), torch.from_numpy(tokens.mask)
        text = tuned.model.encode_text(ids)
        local, _ = tuned.model.fusion_head(encoding.regions.tokens, text.tokens, mask)
    truth = [row.labels["Lung Opacity"] for row in data]
    for score in (encoding.embedding @ text.embedding.t(), local):
        assert roc_auc_score(truth, (score[:, 0] - score[:, 1]).numpy()) > 0.9
    with (result.folder / "log.csv").open(encoding="utf-8") as file:
        log = list(csv.DictReader(file))
    logged = [float(line["eval_auroc"]) for line in log if line["eval_auroc"]]
    assert max(logged[1:]) == pytest.approx(result.auroc)
    assert log[0]["step"] == "0"
    with Image.open(result.folder / "curves.png") as curves:
        assert curves.size[0] > 500
    seen, procedure = (tuned.card.texts[key] for key in ("training_data", "training_procedure"))
    assert seen[0].startswith("32 images with texts, of a dataset whose table has the SHA-256 ")
    assert seen[1:] == ("Of the base: Everything.",)
    assert "40 steps of 16 images in fp32." in procedure
    # Everything else in the card of the base is about other weights.
    assert tuned.card.texts.keys() == {"training_data", "training_procedure"}
    assert not tuned.card.metrics
    written = (result.folder / "settings.json").read_text() + (result.folder / "environment.json").read_text()
    assert str(tmp_path) not in written
    assert "Case" not in written
    assert json.loads(written[: written.index("\n}\n") + 3])["rows"] == {
        "train": 32,
        "validation": 32,
        "left_out": 0,
    }


@pytest.mark.parametrize(
    ("freeze", "local", "changed"),
    [
        ("auto", "pair", {"fusion_head", "logit_scale"}),
        pytest.param(
            "text",
            "pair",
            {"fusion_head", "logit_scale", "vision_model", "visual_projection"},
            marks=pytest.mark.slow,
        ),
        pytest.param("image", "none", {"logit_scale", "text_model", "text_projection"}, marks=pytest.mark.slow),
        pytest.param("none", "pair+words", None, marks=pytest.mark.slow),
    ],
)
def test_frozen_parts_do_not_change(
    base: Checkpoint, dataset: Dataset, tmp_path: Path, freeze: Any, local: Any, changed: set[str] | None
) -> None:
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    settings = TrainSettings(**QUICK, max_steps=3, warmup=0.0, freeze=freeze, loss=LossSettings(local))
    result = train(base, read_dataset(dataset()), tmp_path / "run", settings)
    # The last state is compared, since the best one may be an earlier one.
    after = base.model.state_dict()
    moved = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert {name.split(".")[0] for name in moved} == (changed or {name.split(".")[0] for name in before})
    assert load_checkpoint(result.checkpoint).config.fusion_trained == (local != "none")
    if changed is not None and "fusion_head" in changed:
        assert {name for name in before if name.startswith("fusion_head")} <= moved


@pytest.mark.slow
def test_bf16_trains(base: Checkpoint, dataset: Dataset, tmp_path: Path) -> None:
    loss = LossSettings("pair+words", encode_at_once=5, pairs_at_once=64)
    settings = TrainSettings(**QUICK, max_steps=2, precision="bf16", freeze="none", loss=loss)
    result = train(base, read_dataset(dataset()), tmp_path / "run", settings)
    assert all(
        tensor.dtype == torch.float32 for tensor in load_checkpoint(result.checkpoint).model.state_dict().values()
    )


class RecordingListener(TrainListener):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.problems: list[tuple[int, str]] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def problem(self, problem: Any) -> None:
        self.problems.append((problem.line, problem.text))


def test_one_class_in_validation_gives_a_note(base: Checkpoint, dataset: Dataset, tmp_path: Path) -> None:
    def only_bright(number: int, row: dict[str, Any]) -> dict[str, Any] | None:
        return None if number >= 32 and number % 2 else row

    recorded = RecordingListener()
    settings = TrainSettings(**QUICK, max_steps=2)
    result = train(base, read_dataset(dataset(only_bright)), tmp_path / "run", settings, listener=recorded)
    assert (result.auroc, result.best_step) == (None, None)
    assert any("no finding has images with and without it" in note for note in recorded.notes)
    last = load_checkpoint(result.checkpoint).model.state_dict()
    assert all(torch.equal(last[name], tensor) for name, tensor in base.model.state_dict().items())


def test_rows_without_a_text_are_reported_with_their_lines(base: Checkpoint, dataset: Dataset, tmp_path: Path) -> None:
    def spoil(number: int, row: dict[str, Any]) -> dict[str, Any]:
        if number == 3:
            row |= {"report": "", "Lung Opacity": "", "Pneumothorax": -1}
        if number == 5:
            row["report"] = ""
        if number == 7:
            row["report"] = "<|endoftext|> Mr. Smith"
        if number == 9:
            row["report"] = "edema " * 200
        return row

    recorded = RecordingListener()
    settings = TrainSettings(**QUICK, max_steps=1, text="sentences")
    with pytest.raises(LrclrError, match=r"2 of 64 rows of the dataset are bad: line 5: .*; line 9: "):
        train(base, read_dataset(dataset(spoil)), tmp_path / "run", settings, listener=recorded)
    train(base, read_dataset(dataset(spoil)), tmp_path / "run", settings, listener=recorded, skip_bad_rows=True)
    assert [line for line, _ in recorded.problems] == [5, 9]
    assert "Smith" not in str(recorded.problems)
    assert any(note.startswith("1 of 30 reports are longer") for note in recorded.notes)
    assert any(note.startswith("1 of 30 training rows have no report") for note in recorded.notes)


@pytest.mark.slow
def test_torchrun_with_two_processes_gives_the_weights_of_one(
    base: Checkpoint, dataset: Dataset, tmp_path: Path
) -> None:
    base.save(tmp_path / "base")
    data = dataset()
    options = ["--max-steps", 3, "--warmup", 0, "--batch-size", 16, "--workers", 0, "--freeze", "none"]
    command = ["lrclr", "train", data, "--base", tmp_path / "base", "-o", tmp_path / "two", *options]
    process = start("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, "-m", *command)
    settings = TrainSettings(batch_size=16, workers=0, max_steps=3, warmup=0.0, freeze="none")
    train(load_checkpoint(tmp_path / "base"), read_dataset(data), tmp_path / "one", settings)
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    # Only one process prints.
    assert output.count("mean AUROC") == 1
    one_process, two_processes = (
        load_checkpoint(tmp_path / run / "checkpoint").model.state_dict() for run in ("one", "two")
    )
    for name, tensor in one_process.items():
        torch.testing.assert_close(two_processes[name], tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["clip", "open_clip clip", "siglip", "open_clip siglip", "biomedclip", "vit and bert"])
def test_every_family_is_tuned(
    name: str, quiet_transformers: None, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the command line, from a network of the original class. Fine-tuning starts from its embeddings."""
    original = ORIGINALS[name](tmp_path / "source", monkeypatch)
    before = original.checkpoint
    before.save(tmp_path / "base")
    options = ("--base", tmp_path / "base", "-o", tmp_path / "run", "--max-steps", 12, "--batch-size", 16)
    rates = ("--lr", 1e-3, "--tower-lr", 3e-4, "--freeze", "none", "--workers", 0, "--no-augment")
    done = bundles.call("train", dataset(), *options, *rates)
    assert done.returncode == 0, done.stderr
    tuned = load_checkpoint(tmp_path / "run" / "checkpoint")
    assert (tuned.config.family, tuned.tokenizer.sha256) == (before.config.family, before.tokenizer.sha256)
    assert tuned.preprocess == before.preprocess
    for tower in ("vision_model", "text_model"):
        old, new = (each.model.get_submodule(tower).state_dict() for each in (before, tuned))
        assert any(not torch.equal(old[key], new[key]) for key in old)
    with (tmp_path / "run" / "log.csv").open(encoding="utf-8") as file:
        losses = [float(line["eval_loss"]) for line in csv.DictReader(file) if line["eval_loss"]]
    assert losses[-1] < losses[0]
