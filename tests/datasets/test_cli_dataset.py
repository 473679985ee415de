"""Tests of the command `lrclr dataset`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import typer

from lrclr.cli import main

# Private: the command itself, so that its errors reach the test as exceptions.
from lrclr.cli._dataset import dataset
from lrclr.datasets import read_dataset
from lrclr.datasets._imported import CHEXPERT_FINDINGS
from lrclr.errors import LrclrError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Picture = Callable[..., Path]

app = typer.Typer()
app.command()(dataset)


def lrclr_dataset(*arguments: str | Path) -> None:
    app([str(argument) for argument in arguments], standalone_mode=False)


@pytest.fixture
def chexpert(tmp_path: Path, picture: Picture) -> Path:
    names = ["valid/patient1/study1/view1_frontal.jpg", "valid/patient2/study1/view1_frontal.jpg"]
    picture(names[0])
    rows = "".join(f"CheXpert-v1.0/{name},Frontal{',1.0' * 14}\n" for name in names)
    (tmp_path / "valid.csv").write_text(f"Path,Frontal/Lateral,{','.join(CHEXPERT_FINDINGS)}\n{rows}")
    return tmp_path


@pytest.mark.parametrize("name", ["out.csv", "out.jsonl"])
def test_a_dataset_is_written_and_summarised(chexpert: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    lrclr_dataset("chexpert", chexpert, "-o", chexpert / name, "--skip-bad-rows")
    read = read_dataset(chexpert / name, strict=True)
    assert read.findings == CHEXPERT_FINDINGS
    assert [(row.split, row.patient, len(row.labels)) for row in read.rows] == [("validation", "patient1", 14)]
    captured = capsys.readouterr()
    assert captured.out == f"{chexpert / name}: 1 images (validation 1), 14 findings\n"
    assert "left out: 1\n  line 3: valid.csv: its image file does not exist\n" in captured.err
    with pytest.raises(UsageError, match="already exists"):
        lrclr_dataset("chexpert", chexpert, "-o", chexpert / name)
    lrclr_dataset("chexpert", chexpert, "-o", chexpert / name, "--overwrite", "--skip-bad-rows")


def test_skipped_rows_need_an_option(chexpert: Path) -> None:
    with pytest.raises(
        LrclrError, match=r"1 of 2 rows of .* are bad: line 3: valid\.csv: its image file does not exist"
    ) as caught:
        lrclr_dataset("chexpert", chexpert, "-o", chexpert / "out.csv")
    assert caught.value.exit_code == 1
    assert "--skip-bad-rows" in str(caught.value)
    assert not (chexpert / "out.csv").exists()


def test_a_wrong_call_is_refused(chexpert: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    calls: list[tuple[list[str | Path], str]] = [
        (["padchest", chexpert, "-o", out], "unknown format 'padchest'"),
        (["chexpert", chexpert, "-o", tmp_path / "out.xlsx"], "has an unknown format"),
        (["chexpert", chexpert, "-o", out, "--section", "findings"], "--section is not an option of chexpert"),
        (["chexpert", chexpert, "-o", out, "--masks", chexpert], "--masks is not an option of chexpert"),
        (["openi", chexpert, "-o", out, "--section", "title"], "unknown section 'title'"),
        (["openi", chexpert, "-o", out], "needs --images"),
        (["openi", chexpert, chexpert, "-o", out, "--images", chexpert], "one source, not 2"),
        (["chexlocalize", chexpert, "-o", out, "--images", chexpert], "needs --masks"),
        (["chexpert", tmp_path / "train.csv", "-o", out], "cannot be read"),
        (
            ["chexpert", chexpert, "-o", out, "--images", chexpert / "valid/patient1", "--skip-bad-rows"],
            "used: valid.csv",
        ),
    ]
    for arguments, reason in calls:
        with pytest.raises(UsageError, match=reason):
            lrclr_dataset(*arguments)
    assert not out.exists()


def test_masks_are_written_with_the_dataset(tmp_path: Path, picture: Picture) -> None:
    picture("test/patient1/study1/view1_frontal.jpg", (2, 3))
    source = tmp_path / "gt_segmentations_test.json"
    source.write_text(json.dumps({"patient1_study1_view1_frontal": {"Edema": {"size": [2, 3], "counts": [1, 5]}}}))
    lrclr_dataset(
        "chexlocalize", source, "--images", tmp_path, "--masks", tmp_path / "masks", "-o", tmp_path / "out.csv"
    )
    (row,) = read_dataset(tmp_path / "out.csv", strict=True).rows
    assert row.masks == {"Edema": (tmp_path / "masks/patient1_study1_view1_frontal/Edema.png", None)}


def test_masks_are_not_kept_without_the_dataset(tmp_path: Path, picture: Picture) -> None:
    picture("test/patient1/study1/view1_frontal.jpg", (2, 3))
    source = tmp_path / "gt_segmentations_test.json"
    source.write_text(json.dumps({"patient1_study1_view1_frontal": {"Edema": {"size": [2, 3], "counts": [1, 5]}}}))
    masks, out = tmp_path / "masks", tmp_path / "out.csv"
    command = ["dataset", "chexlocalize", str(source), "--images", str(tmp_path), "--masks", str(masks), "-o"]
    # The name of the partial file is longer, and too long for the file system.
    unwritable = str(tmp_path / f"{'x' * 251}.csv")
    assert main([*command, unwritable]) == 1
    assert main([*command, str(masks / "out.csv")]) == 2
    assert not masks.exists()
    assert main([*command, str(out)]) == 0
    # With --overwrite, the earlier masks remain after an error.
    before = {path: path.stat().st_ino for path in masks.rglob("*")}
    assert main([*command, unwritable, "--overwrite"]) == 1
    assert {path: path.stat().st_ino for path in masks.rglob("*")} == before


def test_the_former_name_of_the_command_works_with_a_note(chexpert: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["chexpert", str(chexpert), "--skip-bad-rows", "-o"]
    assert main(["dataset", *arguments, str(chexpert / "now.csv")]) == 0
    assert "is now called" not in capsys.readouterr().err
    assert main(["manifest", *arguments, str(chexpert / "first.csv")]) == 0
    assert "`lrclr manifest` is now called `lrclr dataset`" in capsys.readouterr().err
    assert (chexpert / "first.csv").read_bytes() == (chexpert / "now.csv").read_bytes()
    assert main(["--help"]) == 0
    assert " manifest " not in capsys.readouterr().out
