"""A run that is stopped leaves complete files and can be resumed to the same weights."""

from __future__ import annotations

import filecmp
import os
import re
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from lrclr.checkpoints import load_checkpoint
from lrclr.datasets import read_dataset
from lrclr.errors import LrclrError, UsageError
from lrclr.training import train

# Private: torch reports a full disk with an error of its own, which only /dev/full triggers here.
from lrclr.training._trainer import _system_errors
from tests.training.conftest import row, start, write_csv
from tests.training.run_worker import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lrclr.checkpoints import Checkpoint
    from tests.training.conftest import Dataset

STATE = {"model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"}


@pytest.fixture
def inputs(base: Checkpoint, dataset: Dataset, tmp_path: Path) -> tuple[Path, Path]:
    base.save(tmp_path / "base")
    return tmp_path / "base", dataset()


def stop(inputs: tuple[Path, Path], folder: Path, event: str, step: int) -> tuple[int, str]:
    worker = start("-m", "tests.training.run_worker", *inputs, folder, event, step)
    _, errors = worker.communicate()
    return worker.returncode, errors


def states(folder: Path) -> dict[str, set[str]]:
    return {entry.name: {file.name for file in entry.iterdir()} for entry in sorted((folder / "steps").iterdir())}


@pytest.mark.slow
def test_a_killed_and_resumed_run_gives_the_same_weights(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    base, dataset = inputs
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    # At the worst moment: half of a state is written.
    assert stop(inputs, killed, "killed while saving", 6)[0] == -9
    torn = [name for name in states(killed) if name.startswith(".")]
    assert len(torn) == 1
    assert states(killed).keys() == {"checkpoint-2", "checkpoint-4", *torn}
    with pytest.raises(UsageError, match="already holds a run"):
        train(load_checkpoint(base), read_dataset(dataset), killed, SETTINGS)
    with pytest.raises(UsageError, match="differs in seed"):
        train(load_checkpoint(base), read_dataset(dataset), killed, replace(SETTINGS, seed=1), resume=True)
    uninterrupted = train(load_checkpoint(base), read_dataset(dataset), whole, SETTINGS)
    # The number of workers does not change the result.
    resumed = train(load_checkpoint(base), read_dataset(dataset), killed, replace(SETTINGS, workers=1), resume=True)
    assert resumed.resumed_from == 4
    assert (resumed.auroc, resumed.best_step) == (uninterrupted.auroc, uninterrupted.best_step)
    assert states(killed) == {"checkpoint-6": STATE, "checkpoint-8": STATE}
    for file in ("steps/checkpoint-8/model.safetensors", "checkpoint/model.safetensors", "log.csv"):
        assert filecmp.cmp(killed / file, whole / file, shallow=False), file


@pytest.mark.slow
def test_a_full_disk_keeps_earlier_states(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    code, errors = stop(inputs, folder, "disk full", 5)
    assert code == 1
    assert errors.strip().splitlines()[-1] == (
        f"{folder}/steps/checkpoint-6 could not be written: File too large. What was there before is unchanged."
    )
    assert states(folder) == {"checkpoint-2": STATE, "checkpoint-4": STATE}
    assert {entry.name for entry in folder.iterdir()} == {
        *("checkpoint", "curves.png", "environment.json", "log.csv", "pixels", "settings.json", "steps")
    }
    load_checkpoint(folder / "checkpoint")


def test_a_write_error_of_torch_becomes_an_oserror() -> None:
    with pytest.raises(OSError, match="the disk is full"), _system_errors():
        torch.save(torch.zeros(10**5), "/dev/full")
    with pytest.raises(RuntimeError, match="ours"), _system_errors():
        raise RuntimeError("ours")


@pytest.mark.slow
def test_a_terminated_run_reports_it_and_leaves_complete_states(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert stop(inputs, folder, "terminated", 4)[0] == 143
    assert states(folder) == {"checkpoint-2": STATE}


@pytest.fixture(scope="module")
def four_steps(tiny_folder: Path, squares: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The data set of a run of four steps, and its folder. Shared: change `finished`, its copy."""
    folder = tmp_path_factory.mktemp("four_steps")
    rows = [row(squares, number, "train" if number < 32 else "validation") for number in range(64)]
    data = write_csv(folder / "data.csv", rows)
    train(load_checkpoint(tiny_folder), read_dataset(data), folder / "run", replace(SETTINGS, max_steps=4))
    return data, folder / "run"


@pytest.fixture
def finished(four_steps: tuple[Path, Path], tmp_path: Path) -> Path:
    return shutil.copytree(four_steps[1], tmp_path / "run")


@pytest.fixture
def resume(tiny_folder: Path, four_steps: tuple[Path, Path]) -> Callable[[Path], object]:
    def go_on(folder: Path) -> object:
        settings = replace(SETTINGS, max_steps=4)
        return train(load_checkpoint(tiny_folder), read_dataset(four_steps[0]), folder, settings, resume=True)

    return go_on


@pytest.mark.parametrize(
    ("damaged", "reason"),
    [
        ("steps/checkpoint-4/model.safetensors", "checkpoint-4 is damaged.*Delete it: the run then continues from"),
        ("steps/checkpoint-4/optimizer.pt", "checkpoint-4 is damaged.*Delete it"),
        ("steps/checkpoint-4/trainer_state.json", "checkpoint-4 is damaged.*Delete it"),
        ("settings.json", "settings.json is damaged or missing.*--overwrite"),
    ],
)
@pytest.mark.parametrize("missing", [False, True], ids=["damaged", "missing"])
def test_a_damaged_run_is_not_resumed_and_not_deleted(
    finished: Path, resume: Callable[[Path], object], damaged: str, reason: str, missing: bool
) -> None:
    if missing:
        (finished / damaged).unlink()
    else:
        os.truncate(finished / damaged, 100)
    before = states(finished).keys()
    with pytest.raises(LrclrError) as caught:
        resume(finished)
    assert re.search(reason, str(caught.value))
    assert states(finished).keys() == before


def test_a_run_without_its_best_network_is_not_resumed(finished: Path, resume: Callable[[Path], object]) -> None:
    shutil.rmtree(finished / "checkpoint")
    with pytest.raises(LrclrError, match="checkpoint is missing: it had the best network so far, of step 4"):
        resume(finished)
