"""The loss: over several processes, in pieces, with equal texts, and in half precision."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from lrclr.model import select_regions
from lrclr.training import ContrastiveTask, LossSettings

# Private: a run does not report the selection of a batch.
from lrclr.training._task import _select_in_float32
from tests.training import gloo_worker
from tests.training.conftest import start

if TYPE_CHECKING:
    from pathlib import Path

    from lrclr.checkpoints import Checkpoint


@pytest.mark.slow
def test_two_processes_have_the_loss_and_gradients_of_one_process(tmp_path: Path, quiet_transformers: None) -> None:
    workers = [start("-m", "tests.training.gloo_worker", rank, 2, tmp_path) for rank in range(2)]
    alone = gloo_worker.losses_and_gradients(0, 1)
    for worker in workers:
        _, errors = worker.communicate()
        assert worker.returncode == 0, errors
    for rank in range(2):
        shared = torch.load(tmp_path / f"{rank}.pt")
        for name, (losses, gradients) in alone.items():
            for part, value in losses.items():
                torch.testing.assert_close(shared[name][0][part], value, rtol=1e-6, atol=1e-6)
            assert shared[name][1].keys() == gradients.keys()
            for key, gradient in gradients.items():
                # Relative to the size of the gradient, since sums are rounded in another order.
                torch.testing.assert_close(
                    shared[name][1][key], gradient, rtol=1e-4, atol=2e-5 * float(gradient.abs().max()) + 1e-7
                )


def test_pieces_do_not_change_loss_and_gradients(quiet_transformers: None) -> None:
    found = gloo_worker.losses_and_gradients(0, 1)
    for name in ("pair", "pair+words"):
        (whole, gradients), (pieces, in_pieces) = found[name], found[f"{name}, in pieces"]
        torch.testing.assert_close(pieces["loss"], whole["loss"], rtol=1e-6, atol=1e-6)
        assert in_pieces.keys() == gradients.keys()
        for key, gradient in gradients.items():
            torch.testing.assert_close(
                in_pieces[key], gradient, rtol=1e-4, atol=2e-5 * float(gradient.abs().max()) + 1e-7
            )


@pytest.mark.parametrize("local", ["none", "pair", "pair+words"])
def test_equal_texts_are_not_negatives(base: Checkpoint, local: str) -> None:
    task = ContrastiveTask(base.model, LossSettings(local))  # type: ignore[arg-type]
    whole = gloo_worker.batch(0, 1)
    twice = {name: torch.cat([tensor[:1], tensor[:1]]) for name, tensor in whole.items()}
    assert float(task(**twice)["loss"]) == pytest.approx(0.0, abs=1e-6)
    twice["text_key"] = torch.tensor([1, 2])
    assert float(task(**twice)["loss"]) > 0.5
    # Texts with two keys are equal if one key is equal.
    for keys, same in (([[1, 7], [1, 8]], True), ([[1, 7], [2, 7]], True), ([[1, 2], [2, 1]], False)):
        twice["text_key"] = torch.tensor(keys)
        assert (float(task(**twice)["loss"]) < 1e-6) is same


def test_half_precision_selects_the_regions_of_single(base: Checkpoint) -> None:
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(8, 2, 50, 50, generator=generator).softmax(-1) for _ in range(3)]
    tokens = torch.randn(8, 50, 4, generator=generator)
    expected = select_regions(maps, tokens, 10, False)
    with torch.autocast("cpu", torch.bfloat16):
        # The danger is real: without our handling, the same call gives other weights.
        assert not torch.equal(select_regions(maps, tokens, 10, False).importance, expected.importance)
        found = _select_in_float32(maps, tokens, 10, False)
    assert torch.equal(found.importance, expected.importance)
    assert torch.equal(found.index, expected.index)


def test_half_precision_gives_nearly_the_same_loss(base: Checkpoint) -> None:
    task = ContrastiveTask(base.model, LossSettings("pair+words"))
    batch = gloo_worker.batch(0, 1)
    single = task(**batch)["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        half = task(**batch)["loss"]
    assert half.dtype == torch.float32
    assert float(half) == pytest.approx(float(single), rel=0.02)
