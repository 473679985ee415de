"""Training of the default checkpoint's base: its initial weights, and runs that are stopped and continued."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, cast

import numpy as np
import pytest
import torch
from torch.distributed.run import get_args_parser

from benchmarks.checkpoint.base import BaseRun, Reader
from benchmarks.checkpoint.base import main as base_main
from benchmarks.checkpoint.curves import losses_of
from benchmarks.checkpoint.detail import StemRun
from benchmarks.checkpoint.images import as_pixel_values
from benchmarks.checkpoint.initial import initialise_fusion, initialise_tower, with_larger_patches
from benchmarks.checkpoint.network import network
from benchmarks.checkpoint.pack import metrics_of
from benchmarks.checkpoint.prompts import choose_prompts
from benchmarks.checkpoint.running import RowBatches, joined, run_to_end
from benchmarks.checkpoint.tune import Sentences, TuneRun
from benchmarks.checkpoint.views import Views, read_views, write_views
from benchmarks.phantom.cases import FINDINGS
from benchmarks.phantom.reports import stated
from lrclr.errors import UsageError
from lrclr.model.attention import AttentionRecorder
from tests.benchmarks.checkpoint.shared_steps import after_two_steps, smooth_images, split
from tests.training.conftest import start

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from typing import Any, TypeVar

    from benchmarks.checkpoint.running import Run
    from lrclr.model.fusion import FusionBlock
    from lrclr.training import LocalLoss

    AnyRun = TypeVar("AnyRun", bound=Run)


def through_file(state: dict[str, Any]) -> dict[str, Any]:
    """The state as a file of a stopped run has it."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return cast("dict[str, Any]", torch.load(file, weights_only=True))


def two_steps(make: Callable[[], AnyRun]) -> tuple[AnyRun, AnyRun, Mapping[str, float]]:
    """A run after two steps, one that was stopped after the first step and continued, and the losses of the former."""
    straight, stopped, continued = (make() for _ in range(3))
    straight.advance()
    parts = straight.advance()
    stopped.advance()
    continued.restore(through_file(stopped.state()))
    continued.advance()
    return straight, continued, parts


def test_the_first_patch_embedding_makes_all_components_of_patches_equal() -> None:
    tower = network(vocabulary=512).vision_model
    pixel_values = as_pixel_values(torch.from_numpy(smooth_images(60)).float()[:, None] / 255)

    def spread() -> float:
        patches = tower.embeddings.patch_embedding(pixel_values).flatten(2).transpose(1, 2).flatten(0, 1)
        sizes = torch.linalg.svdvals(patches - patches.mean(0))
        return float(sizes[0] / sizes[20])

    with torch.no_grad():
        before = spread()
        initialise_tower(tower, pixel_values, torch.Generator().manual_seed(0))
        assert before > 20
        assert spread() < 3


def test_patches_first_attend_to_their_neighbours() -> None:
    tower = network(vocabulary=512).vision_model
    pixel_values = as_pixel_values(torch.from_numpy(smooth_images(4)).float()[:, None] / 255)
    side = int((tower.embeddings.position_embedding.weight.shape[0] - 1) ** 0.5)
    places = torch.cartesian_prod(torch.arange(side), torch.arange(side)).float()
    distance = torch.cdist(places, places)

    def mean_distance() -> float:
        recorder = AttentionRecorder(1, mean=True)
        with torch.no_grad():
            tower.blocks[0](tower.embed(pixel_values), None, recorder=recorder)
        attention = recorder.maps[0][:, 0, 1:, 1:]
        return float((attention * distance).sum(-1).mean() / attention.sum(-1).mean())

    before = mean_distance()
    initialise_tower(tower, pixel_values, torch.Generator().manual_seed(0))
    assert before > 0.95 * distance.mean()
    assert mean_distance() < 0.6 * before


def test_prompts_first_attend_to_regions_like_their_words() -> None:
    torch.manual_seed(0)
    head = network(vocabulary=512).fusion_head
    alike = torch.randn(1, head.image_projection.out_features)
    # Three regions in the fusion head's width, of which the second is like the prompt's tokens.
    regions = torch.stack([*torch.randn(2, alike.shape[1]), alike[0]])[[0, 2, 1]]
    initialise_fusion(head, torch.Generator().manual_seed(0))
    hidden = torch.cat([regions, alike])[None]
    block = cast("FusionBlock", head.blocks[0])
    _, attention = block(hidden, *block.project(hidden), torch.zeros(1, 1, 1, 4))
    to_regions = attention[0, :, 3, :3].mean(0)
    assert to_regions.argmax() == 1
    assert to_regions[1] > 5 * to_regions[0]


def test_a_rounding_reader_computes_as_int8_does_and_has_gradients() -> None:
    reader = Reader(network(vocabulary=512))
    pixel_values = as_pixel_values(torch.from_numpy(smooth_images(4)).float()[:, None] / 255)
    seen: list[torch.Tensor] = []
    layer = cast("torch.nn.Linear", reader.get_submodule("tower.encoder.layers.0.mlp.fc1"))
    layer.register_forward_hook(lambda module, inputs, _: seen.extend((inputs[0], module.weight)))
    plain, rounded = reader(pixel_values), reader.rounded(pixel_values)
    inputs, weight = seen[2:]
    assert len(torch.unique(inputs)) <= 255
    assert max(len(torch.unique(row)) for row in weight) <= 127
    assert 0 < (plain[0] - rounded[0]).abs().max() < 0.1 * plain[0].abs().max()
    (gradient,) = torch.autograd.grad(rounded[1].sum(), layer.weight)
    assert gradient.abs().max() > 0
    # Without rounding it computes as before.
    torch.testing.assert_close(reader(pixel_values)[0], plain[0], rtol=0, atol=0)


def test_a_reader_of_some_patches_answers_for_these() -> None:
    reader = Reader(network(vocabulary=512))
    pixel_values = as_pixel_values(torch.from_numpy(smooth_images(2)).float()[:, None] / 255)
    order = torch.stack([torch.randperm(196, generator=torch.Generator().manual_seed(each)) for each in (0, 1)])
    (cells, image), (of_order, image_of_order) = reader(pixel_values), reader(pixel_values, order)
    torch.testing.assert_close(image_of_order, image)
    for each in (0, 1):
        torch.testing.assert_close(of_order[each], cells[each][:, order[each]])
    changed = pixel_values.clone()
    changed[:, :, :16, :16] = 1  # patch 0, and its neighbours through the convolutions
    kept = order[:, order.shape[1] // 2 :].clone()
    near = (kept // 14 < 4) & (kept % 14 < 4)
    kept[near] = 195
    torch.testing.assert_close(reader(changed, kept), reader(pixel_values, kept))


@pytest.mark.slow
@pytest.mark.parametrize("from_masks", [True, False])
def test_a_continued_run_ends_with_the_same_weights(*, from_masks: bool) -> None:
    data = split()
    straight, continued, parts = two_steps(lambda: BaseRun(data, from_masks=from_masks, steps=2, seed=0))
    assert ("cells" in parts) == from_masks
    for name, weights in straight.tower.items():
        torch.testing.assert_close(continued.tower[name], weights, rtol=0, atol=0)


def test_a_run_that_starts_from_weights_has_them_and_reads_all_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    before = network(vocabulary=512).vision_model.state_dict()
    run = BaseRun(split(), from_masks=True, steps=8, seed=0, start=before)
    for name, weights in run.tower.items():
        torch.testing.assert_close(weights, before[name], rtol=0, atol=0)
    monkeypatch.setattr("benchmarks.checkpoint.base._half", lambda *_: pytest.fail("patches are left out"))
    run.advance()


def test_a_continued_run_of_the_convolutions_ends_with_the_same_weights() -> None:
    data = split()
    straight, continued, _ = two_steps(lambda: StemRun(data, steps=2, seed=0))
    for name, weights in straight.stem.state_dict().items():
        torch.testing.assert_close(continued.stem.state_dict()[name], weights, rtol=0, atol=0)


def test_convolutions_need_weights_of_a_tower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [str(tmp_path / name) for name in ("manifest.csv", "base.pt", "stem.pt")]
    monkeypatch.setattr("sys.argv", ["", paths[0], "-o", paths[1], "--stem", paths[2]])
    assert base_main() == 2
    assert "--stem needs --weights" in capsys.readouterr().err


@torch.no_grad()
def test_a_tower_of_fewer_pixels_goes_on_with_more_and_with_convolutions_that_first_add_nothing() -> None:
    coarse, fine = (network(vocabulary=512, size=size).vision_model for size in (112, 224))
    stem = StemRun(split(), steps=2, seed=0).stem.state_dict()
    fine.load_state_dict(with_larger_patches(coarse.state_dict(), 16) | {f"stem.{name}": stem[name] for name in stem})
    large = as_pixel_values(torch.from_numpy(smooth_images(3)).float()[:, None] / 255)
    reduced = torch.nn.functional.interpolate(large, 112, mode="bilinear", antialias=True)
    before, after = coarse.embed(reduced), fine.embed(large)
    assert torch.nn.functional.cosine_similarity(before, after, dim=-1).min() > 0.97


@pytest.mark.parametrize("local", ["none", "pair+words"])
def test_a_continued_tuning_ends_with_the_same_weights(local: LocalLoss) -> None:
    reports, base = (
        ("No pleural effusion. The lungs are clear.",) * 48,
        network(vocabulary=512).vision_model.state_dict(),
    )
    views = Views(torch.arange(48), torch.randn(48, 5, 192).half())
    straight, continued, _ = two_steps(lambda: TuneRun(reports, views, base, local=local, steps=3, seed=0))
    for name, weights in straight.model.state_dict().items():
        torch.testing.assert_close(continued.model.state_dict()[name], weights, rtol=0, atol=0)
    assert straight.checkpoint().model.config.fusion_trained == (local != "none")


@pytest.mark.slow
def test_views_are_of_all_images_and_a_stopped_command_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.checkpoint.views._PIECE", 50)
    data, base = split(), network(vocabulary=512).vision_model.state_dict()
    write_views(data, base, tmp_path, count=100)
    views = read_views(tmp_path)
    assert views.tokens.shape == (100, 49, 192)
    assert sorted(views.rows[:48].tolist()) == list(range(48))
    # A piece that a stopped command left is kept, and a missing one comes out as before.
    (tmp_path / "001.pt").unlink()
    kept = (tmp_path / "000.pt").stat().st_mtime_ns
    write_views(data, base, tmp_path, count=100)
    assert (tmp_path / "000.pt").stat().st_mtime_ns == kept
    torch.testing.assert_close(read_views(tmp_path).tokens, views.tokens, rtol=0, atol=0)


def test_rare_sentences_are_drawn_more_often() -> None:
    reports = ["The lungs are clear. There is a small nodule in the left lung.", *["The lungs are clear."] * 99]
    sentences, rng = Sentences(reports), np.random.default_rng(0)
    drawn = [sentences.draw(0, rng) for _ in range(400)]
    first = [text.startswith("There is a small nodule") for text in drawn]
    assert sum(first) > 340  # 10 in 11 of the texts
    assert {len(sentences.draw(1, rng).split(".")) for _ in range(5)} == {2}


@pytest.mark.slow
def test_prompts_are_chosen_from_the_sentences_of_reports() -> None:
    reports = [sentence for name in FINDINGS for form in stated(name) for sentence in form]
    run = TuneRun(
        reports,
        Views(torch.arange(48), torch.randn(48, 5, 192).half()),
        network(vocabulary=512).vision_model.state_dict(),
        local="pair+words",
        steps=1,
        seed=0,
    )
    checkpoint = run.checkpoint()
    findings = choose_prompts(checkpoint, split(60))
    for before, after in zip(checkpoint.findings.findings, findings.findings, strict=True):
        assert after.negative == before.negative
        assert after.positive in stated(after.name)


class Counting:
    """A run whose state is a number. It stops at `stop_at`."""

    def __init__(self, steps: int, stop_at: int | None = None) -> None:
        self.step, self.steps, self.stop_at, self.total = 0, steps, stop_at, 0

    def advance(self) -> dict[str, float]:
        if self.step == self.stop_at:
            raise KeyboardInterrupt
        self.step += 1
        self.total += self.step
        return {"loss": 1 / self.step}

    def state(self) -> dict[str, Any]:
        return {"step": self.step, "total": self.total}

    def restore(self, state: dict[str, Any]) -> None:
        self.step, self.total = state["step"], state["total"]


def test_the_same_command_continues_a_stopped_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "base.pt"
    with pytest.raises(KeyboardInterrupt):
        run_to_end(Counting(250, stop_at=230), output, {"seed": 0})
    run = Counting(250)
    run_to_end(run, output, {"seed": 0})
    assert run.total == 250 * 251 / 2
    assert "continues after step 200 of 250" in capsys.readouterr().err
    with pytest.raises(UsageError, match=r"other settings.*seed"):
        run_to_end(Counting(250), output, {"seed": 1})


def test_a_finished_run_makes_no_step(tmp_path: Path) -> None:
    run_to_end(Counting(30), tmp_path / "base.pt", {})
    run = Counting(30, stop_at=30)
    run_to_end(run, tmp_path / "base.pt", {})
    assert run.total == 30 * 31 / 2


@pytest.mark.slow
def test_two_processes_make_the_steps_of_one(tmp_path: Path) -> None:
    two = start(
        *("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2),
        *("-m", "tests.benchmarks.checkpoint.shared_steps", tmp_path),
    )
    alone = after_two_steps()
    _, errors = two.communicate()
    assert two.returncode == 0, errors
    first, second = (torch.load(tmp_path / f"{process}.pt", weights_only=True) for process in range(2))
    for name, expected in alone.items():
        for mine, others, wanted in zip(first[name]["losses"], second[name]["losses"], expected["losses"], strict=True):
            assert mine == others
            assert mine == pytest.approx(wanted, rel=2e-3)
        assert torch.equal(first[name]["moved"], second[name]["moved"])
        # By bfloat16 these differ by 0.04 and 0.12 of their length; the gradient of half of the batch, by 0.8.
        assert (first[name]["moved"] - expected["moved"]).norm() <= 0.3 * expected["moved"].norm()


def test_a_batch_that_cannot_be_divided_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UsageError, match="cannot be divided among 3 processes"), joined():
        pass


def test_every_row_is_drawn_before_one_is_drawn_again() -> None:
    rows = RowBatches(np.arange(70), seed=1)
    drawn = np.concatenate([rows.draw(), rows.draw()])
    assert len(set(drawn.tolist())) == 64
    other = RowBatches(np.arange(70), seed=2)
    other.restore(rows.state())
    assert [other.draw().tolist() for _ in range(3)] == [rows.draw().tolist() for _ in range(3)]


@pytest.mark.parametrize(
    "command",
    [
        "base data --split mixed --weights w -o o --taught-by labels --epochs 6 --seed 1",
        "views data --split mixed --base b -o o --count 9",
        "tune data --base b --views v -o o --local-loss none --regions 8 --epochs 6 --seed 1",
    ],
)
def test_torchrun_passes_the_options_on(command: str) -> None:
    """It refuses an option that abbreviates several of its own, such as ``--local``, also behind the module's name."""
    module, *options = command.split()
    parsed = get_args_parser().parse_args(["--standalone", "-m", f"benchmarks.checkpoint.{module}", *options])
    assert parsed.training_script_args == options


def test_losses_are_read_from_what_a_training_printed() -> None:
    text = "continues after step 100 of 300\nstep 200 of 300: image 0.5, cells 0.6, 40 images/s\n"
    assert losses_of(text) == {"image": [(200, 0.5)], "cells": [(200, 0.6)]}


def test_the_model_card_gets_the_metrics_of_the_report() -> None:
    def figure(value: float) -> dict[str, float]:
        return {"value": value, "low": value - 0.1, "high": value + 0.1}

    report = {
        "findings": [{"name": "Edema", "auroc": figure(0.91234)}],
        "mean": {"auroc": figure(0.8)},
        "grounding": [
            {"name": "Edema", "pointing": {"value": 1.0, "low": None, "high": None}},
            {"name": "mean", "pointing": figure(0.6)},
        ],
    }
    found = [(each.name, each.finding, each.value, each.interval) for each in metrics_of(report)]
    assert found == [
        ("AUROC", "Edema", 0.912, (0.812, 1.012)),
        ("AUROC, mean of the seven findings", "", 0.8, (0.7, 0.9)),
        ("pointing", "Edema", 1.0, None),
        ("pointing, mean of the seven findings", "", 0.6, (0.5, 0.7)),
    ]
