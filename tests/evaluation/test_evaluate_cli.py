"""`lrclr evaluate`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from lrclr import Bundle
from lrclr.cli import main
from lrclr.evaluation import load_scores
from tests import bundles

if TYPE_CHECKING:
    from pathlib import Path

    Capture = pytest.CaptureFixture[str]


def call(*arguments: object) -> int:
    return main(["evaluate", *map(str, arguments), "--bootstrap", "30"])


def test_a_table_for_people(bundle_folder: Path, data_file: Path, capsys: Capture) -> None:
    assert call(bundle_folder, data_file) == 0
    captured = capsys.readouterr()
    for text in ("Edema", "AUROC", "pointing", "undefined: no labelled image has it", "mean"):
        assert text in " ".join(captured.out.replace("│", " ").split()) or text.split(":")[0] in captured.out
    assert "Research use only" in captured.err
    assert "no labels of Atelectasis" in captured.err


def test_everything_at_once_for_a_checkpoint_against_its_bundle(
    checkpoint_folder: Path, bundle_folder: Path, data_file: Path, tmp_path: Path, capsys: Capture
) -> None:
    scores, report = tmp_path / "scores.npz", tmp_path / "report"
    assert call(bundle_folder, data_file, "--scores", scores, "--json") == 0
    assert "comparison" not in json.loads(capsys.readouterr().out)
    assert call(checkpoint_folder, data_file, "--against", scores, "-o", report, "--json", "--threads", 1) == 0
    printed = capsys.readouterr().out
    content = json.loads(printed)
    assert content["comparison"]["against"]["kind"] == "bundle"
    assert {each["figure"] for each in content["comparison"]["differences"]} == {"auroc", "pointing"}
    assert sorted(path.name for path in report.iterdir()) == ["report.html", "report.json", "report.md"]
    assert (report / "report.json").read_text() == printed
    assert "## Against another model" in (report / "report.md").read_text()
    assert load_scores(scores).alpha == content["alpha"]
    # The report folder is replaced, a stranger's is not.
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    assert call(checkpoint_folder, data_file, "--against", bundle_folder, "-o", tmp_path / "other") == 2
    captured = capsys.readouterr()
    assert "notes.txt" in captured.err
    assert "paired" in captured.out


def test_fitted_values_are_stored(bundle_folder: Path, data_file: Path, tmp_path: Path, capsys: Capture) -> None:
    folder = bundles.copied(bundle_folder, tmp_path / "bundle")
    assert call(folder, data_file, "--json", "--store") == 0
    fitted = json.loads(capsys.readouterr().out)
    scoring = Bundle(folder).manifest.scoring
    assert (scoring["alpha"], scoring["score_scale"]) == pytest.approx((fitted["alpha"], fitted["score_scale"]))
    assert call(folder, data_file, "--json") == 0
    assert json.loads(capsys.readouterr().out)["settings"]["score_scale_in_effect"] == scoring["score_scale"]


def test_an_ensemble_with_a_preset(bundle_folder: Path, data_file: Path, capsys: Capture) -> None:
    assert call(bundle_folder, data_file, "--ensemble", bundle_folder, "--preset", "chexzero", "--json") == 0
    content = json.loads(capsys.readouterr().out)
    assert len(content["model"]["ensemble"]) == 2
    assert (content["alpha"], content["settings"]["threshold"]) == (0.0, "mcc")


def test_a_bad_image_is_told_and_the_rest_is_judged(
    bundle_folder: Path, data_file: Path, tmp_path: Path, capsys: Capture
) -> None:
    import shutil

    folder = tmp_path / "data"
    shutil.copytree(data_file.parent, folder)
    (folder / "images" / "3.png").write_bytes(b"no picture")
    assert call(bundle_folder, folder / "manifest.csv", "--json") == 1
    captured = capsys.readouterr()
    content = json.loads(captured.out)
    assert (content["data"]["images"], content["data"]["unreadable_lines"]) == (25, [5])
    assert "line 5:" in captured.err
    assert "1 of 26 images could not be read" in captured.err
    assert call(bundle_folder, folder / "manifest.csv", "--strict") == 1
    assert "line 5" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--scores", "x.txt"], ".npz"),
        (["--scores", "{tmp}/none/x.npz"], "no folder"),
        (["--against", "{tmp}/gone"], "no model or file of scores"),
        (["--split", "dev"], "no split 'dev'"),
        (["--alpha", "2"], "between 0 and 1"),
        (["--preset", "x"], "no preset"),
        (["--store", "--preset", "chexzero"], "--store goes with neither"),
        (["--validation-split", "none", "--store"], "nothing to store"),
        (["--provider", "tpu"], "no provider"),
        (["--batch-size", "0"], "at least one image"),
        (["--threshold", "x"], "criterion"),
    ],
)
def test_a_wrong_call_is_told_before_any_work(
    arguments: list[str], told: str, bundle_folder: Path, data_file: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert call(bundle_folder, data_file, *(argument.format(tmp=tmp_path) for argument in arguments)) == 2
    captured = capsys.readouterr()
    assert told in captured.err
    assert captured.out == ""


def test_a_model_that_is_none(data_file: Path, tmp_path: Path, capsys: Capture) -> None:
    assert call(tmp_path / "gone", data_file) == 1
    assert "no checkpoint at" in capsys.readouterr().err


def test_without_scikit_learn_the_extra_is_named(
    bundle_folder: Path, data_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "sklearn" else find(name, *rest)
    )
    assert call(bundle_folder, data_file) == 2
    assert "pip install 'lrclr[evaluate]'" in capsys.readouterr().err
