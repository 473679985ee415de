"""Input that cannot be used for training gives one line with the reason, and the documented exit code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from lrclr.checkpoints import init_checkpoint, load_checkpoint
from lrclr.cli import main
from lrclr.training import ContrastiveTask
from tests.training.conftest import row, write_csv

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from tests.training.conftest import Dataset

    Change = Callable[[int, dict[str, Any]], dict[str, Any] | None]

QUICK = ("--max-steps", "1", "--batch-size", "16", "--workers", "0", "--no-augment")


@pytest.fixture(scope="module")
def folder(quiet_transformers: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "base"
    init_checkpoint("tiny").save(folder)
    return folder


@pytest.fixture
def run(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def call(dataset: Path, *options: str) -> tuple[int, str, str]:
        target = ["--base", str(folder), "-o", str(tmp_path / "run")]
        code = main(["train", str(dataset), *target, *QUICK, *options])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def keep_only(part: str) -> Change:
    return lambda _, one: one if one["split"] == part else None


def with_values(**values: Any) -> Change:
    return lambda _, one: {**one, **values}


@pytest.mark.parametrize(
    ("change", "options", "expected"),
    [
        (lambda n, one: None, (), "has no rows"),
        (keep_only("validation"), (), "no row to train on"),
        (with_values(image="nowhere.png"), (), "the file does not exist"),
        (with_values(report="", **{"Lung Opacity": "", "Pneumothorax": ""}), (), "no row to train on"),
        (with_values(**{"Lung Opacity": 7}), (), "Lung Opacity"),
        (lambda n, one: one if n % 8 == 0 else None, (), "a batch of 16 is larger than 4 training rows"),
        (lambda n, one: one, ("--batch-size", "1"), "batch_size"),
        (lambda n, one: one, ("--precision", "int8"), "precision"),
        (lambda n, one: one, ("--precision", "fp16"), "fp16 needs a GPU"),
        (lambda n, one: one, ("--freeze", "head"), "freeze"),
        (lambda n, one: one, ("--local-loss", "words"), "local loss"),
        (lambda n, one: one, ("--freeze", "image,text", "--local-loss", "none"), "no weights are tuned"),
        (lambda n, one: one, ("--region-top-k", "1000"), "region_top_k"),
        (lambda n, one: one, ("--resume", "--overwrite"), "cannot be used together"),
        (lambda n, one: one, ("--preprocess", "mri"), "preprocessing"),
        (with_values(report="<|endoftext|>"), (), "32 rows: its report contains a marker of the tokenizer"),
    ],
)
def test_invalid_input_is_refused_before_any_work(
    run: Callable[..., tuple[int, str, str]],
    dataset: Dataset,
    tmp_path: Path,
    change: Change,
    options: tuple[str, ...],
    expected: str,
) -> None:
    code, out, err = run(dataset(change), *options)
    assert code == 2
    assert out == ""
    assert expected in err.splitlines()[-1]
    assert err.splitlines()[-1].startswith("error: ")
    assert not (tmp_path / "run" / "settings.json").exists()


def test_a_bad_row_stops_the_run_unless_rows_may_be_skipped(
    run: Callable[..., tuple[int, str, str]], dataset: Dataset
) -> None:
    def spoil(number: int, row: dict[str, Any]) -> dict[str, Any]:
        return {**row, "image": "gone.png"} if number == 4 else row

    code, out, err = run(dataset(spoil))
    assert (code, out) == (1, "")
    assert "1 of 64 rows of the dataset are bad: line 6: image: the file does not exist" in err
    assert "--skip-bad-rows" in err
    code, out, err = run(dataset(spoil), "--skip-bad-rows")
    assert code == 0
    assert "line 6 is left out: image: the file does not exist" in err
    assert "1 row is left out" in err
    assert "31 to train on, 32 to validate on" in err
    assert "mean AUROC on validation" in out
    assert "Research use only" in err


def test_files_of_other_splits_need_not_exist(run: Callable[..., tuple[int, str, str]], dataset: Dataset) -> None:
    def spoil(number: int, row: dict[str, Any]) -> dict[str, Any]:
        return {**row, "split": "test", "image": "gone.png"} if number == 4 else row

    code, _, err = run(dataset(spoil))
    assert code == 0
    assert "left out" not in err


@pytest.mark.slow
def test_an_unreadable_image_is_reported(
    run: Callable[..., tuple[int, str, str]], dataset: Dataset, tmp_path: Path
) -> None:
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n torn")

    def spoil(number: int, row: dict[str, Any]) -> dict[str, Any]:
        return {**row, "image": str(tmp_path / "torn.png")} if number == 40 else row

    code, _, err = run(dataset(spoil), "--skip-bad-rows")
    assert code == 0
    assert "line 42 is left out" in err
    code, _, err = run(dataset(spoil), "--overwrite")
    assert code == 1
    assert "1 of 32 rows of the validation images are bad: line 42" in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("equal", "expected"),
    [
        (32, "warning: 32 of 32 training rows have the same text, and 3.1% of the texts are distinct"),
        (30, "warning: 30 of 32 training rows have the same text, and 9.4% of the texts are distinct"),
        (24, None),
    ],
)
def test_equal_reports_give_a_warning(
    run: Callable[..., tuple[int, str, str]], dataset: Dataset, equal: int, expected: str | None
) -> None:
    def change(number: int, row: dict[str, Any]) -> dict[str, Any]:
        # As the loss compares texts: case and white space make no difference.
        text = "No acute disease." if number % 2 else "no  acute disease. "
        return {**row, "report": text} if number < equal else row

    # The batch is larger than the dataset, so that the run ends before its first step.
    code, _, err = run(dataset(change), "--batch-size", "64")
    assert code == 2
    assert (expected in err) if expected else ("same text" not in err)


@pytest.mark.slow
def test_negative_reports_are_counted_and_used(run: Callable[..., tuple[int, str, str]], dataset: Dataset) -> None:
    negative = with_values(**{"Lung Opacity": 0, "Pneumothorax": 0})
    code, out, err = run(dataset(negative))
    assert code == 0
    assert "32 of 32 labelled training rows name no finding as present" in err
    assert "AUROC is not defined: no finding has images" in err
    assert "no AUROC on validation" in out


@pytest.mark.slow
def test_without_validation_the_last_network_is_kept(
    run: Callable[..., tuple[int, str, str]], dataset: Dataset, tmp_path: Path
) -> None:
    code, out, err = run(dataset(keep_only("train")))
    assert code == 0
    assert "no rows of split 'validation'" in err
    assert "the network of step 1" in out
    code, _, err = run(dataset(keep_only("train")))
    assert code == 2
    assert "already holds a run" in err
    assert run(dataset(keep_only("train")), "--overwrite")[0] == 0
    (tmp_path / "run" / "thesis.tex").write_text("mine")
    code, _, err = run(dataset(keep_only("train")), "--overwrite")
    assert code == 2
    assert "did not write all of it (thesis.tex)" in err


@pytest.mark.slow
def test_a_validation_dataset_must_have_other_images(
    run: Callable[..., tuple[int, str, str]], dataset: Dataset, squares: Path, tmp_path: Path
) -> None:
    train = dataset(keep_only("train"))
    apart = write_csv(tmp_path / "apart.csv", [row(squares, n, "") for n in range(40, 60)])
    code, _, err = run(train, "--validation", str(apart))
    assert code == 0
    assert "32 to train on, 20 to validate on" in err
    shared = write_csv(tmp_path / "shared.csv", [row(squares, n, "") for n in range(30, 60)])
    code, _, err = run(train, "--validation", str(shared), "--overwrite")
    assert code == 2
    assert "2 images to validate on are trained on as well" in err


@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_numbers_that_are_not_finite_stop_the_run(
    run: Callable[..., tuple[int, str, str]],
    dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    broken: str,
) -> None:
    whole, calls = ContrastiveTask.forward, []

    def forward(task: ContrastiveTask, **batch: Tensor) -> dict[str, Tensor]:
        calls.append(1)
        output = whole(task, **batch)
        if len(calls) == 2:
            # The square root at 0 has a finite value but an infinite gradient.
            zero = task.model.logit_scale - task.model.logit_scale.detach()
            output["loss"] = output["loss"] * (torch.nan if broken == "loss" else 1) + zero.sqrt()
        return output

    monkeypatch.setattr(ContrastiveTask, "forward", forward)
    code, _, err = run(dataset(keep_only("train")), "--max-steps", "3", "--save-every", "1")
    assert code == 1
    assert f"the {broken} of step 2 is not finite" in err.splitlines()[-1]
    assert [entry.name for entry in (tmp_path / "run" / "steps").iterdir()] == ["checkpoint-1"]


@pytest.mark.parametrize(
    ("processes", "batch", "expected"),
    [
        (4, 8, "there are 4 processes for 3 training rows. Start fewer processes."),
        (3, 8, "a batch of 8 cannot be shared by 3 processes"),
    ],
)
def test_more_processes_than_rows_are_refused(
    run: Callable[..., tuple[int, str, str]],
    dataset: Dataset,
    monkeypatch: pytest.MonkeyPatch,
    processes: int,
    batch: int,
    expected: str,
) -> None:
    # The variables that torchrun sets. The check comes before processes connect, so one process is enough.
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    code, _, err = run(dataset(lambda n, one: one if n < 3 else None), "--batch-size", str(batch))
    assert code == 2
    assert expected in err.splitlines()[-1]


def test_only_the_first_process_prints_errors(
    run: Callable[..., tuple[int, str, str]], dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, err = run(dataset(keep_only("validation")))
    assert code == 2
    assert waited == [5.0]
    assert err.startswith("error: ")


def test_a_run_does_not_replace_what_it_reads(
    run: Callable[..., tuple[int, str, str]], folder: Path, dataset: Dataset, tmp_path: Path
) -> None:
    """A second stage that starts from the first one, into the same folder."""
    former = tmp_path / "run" / "checkpoint"
    init_checkpoint("tiny").save(former)
    (tmp_path / "run" / "settings.json").write_text("{}")
    code, _, err = run(dataset(), "--base", str(former), "--overwrite")
    assert code == 2
    assert f"{former} is in {tmp_path / 'run'}, which --overwrite replaces" in err
    assert load_checkpoint(former)
