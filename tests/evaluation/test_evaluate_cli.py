"""Tests of the command `lrclr evaluate`."""

from __future__ import annotations

import csv
import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from lrclr import Bundle, FindingSet, ZeroShotClassifier
from lrclr.cli import main
from lrclr.datasets import read_dataset
from lrclr.evaluation import load_scores, score_rows
from tests import bundles

if TYPE_CHECKING:
    from collections.abc import Callable

    MakeData = Callable[..., Path]
    Capture = pytest.CaptureFixture[str]


def call(*arguments: object) -> int:
    return main(["evaluate", *map(str, arguments), "--bootstrap", "30"])


def test_the_table_shows_the_figures(bundle_folder: Path, data_file: Path, capsys: Capture) -> None:
    assert call(bundle_folder, data_file) == 0
    captured = capsys.readouterr()
    for text in ("Edema", "AUROC", "pointing", "undefined: no labelled image has it", "mean"):
        assert text in " ".join(captured.out.replace("│", " ").split()) or text.split(":")[0] in captured.out
    assert "Research use only" in captured.err
    assert "no labels of Atelectasis" in captured.err


def test_all_options_with_a_checkpoint_compared_to_its_bundle(
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
    # A report folder is replaced, a folder with other files is not.
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    assert call(checkpoint_folder, data_file, "--against", bundle_folder, "-o", tmp_path / "other") == 2
    captured = capsys.readouterr()
    assert "notes.txt" in captured.err
    assert captured.out == ""
    assert call(checkpoint_folder, data_file, "--against", bundle_folder) == 0
    assert "paired" in capsys.readouterr().out


def data_that_the_model_recognises(
    bundle_folder: Path, make_data: MakeData, columns: dict[str, str] | None = None
) -> Path:
    """The data set with labels that mostly follow the scores: random weights do not recognise findings."""
    classifier = ZeroShotClassifier.from_bundle(bundle_folder)
    scores = score_rows(classifier, read_dataset(make_data()).rows, FindingSet.from_names(["Edema", "Pneumothorax"]))
    gap = scores.models[0].gap(classifier.spec.alpha)
    noisy = gap + gap.std(axis=0) * np.random.default_rng(0).normal(0, 0.7, gap.shape)
    label = dict(zip(scores.line.tolist(), (noisy > np.median(noisy, axis=0)).astype(int).tolist(), strict=True))
    lines = itertools.count(2)

    def change(row: dict[str, str]) -> dict[str, str]:
        edema, pneumothorax = label[next(lines)]
        split = "validation" if int(row["patient"].removeprefix("patient")) % 2 else "test"
        return {
            **row,
            "edema": str(edema),
            "Pneumothorax": str(pneumothorax),
            "Fracture": "",
            "mask": "",
            "split": split,
        }

    return make_data(columns, change)


def test_fitted_values_are_stored(bundle_folder: Path, make_data: MakeData, tmp_path: Path, capsys: Capture) -> None:
    folder, data = (
        bundles.copied(bundle_folder, tmp_path / "bundle"),
        data_that_the_model_recognises(bundle_folder, make_data),
    )
    alpha = ("--alpha", str(bundles.ALPHA))
    assert call(folder, data, "--json", *alpha) == 0
    before = json.loads(capsys.readouterr().out)
    assert call(folder, data, "--json", "--store", *alpha) == 0
    captured = capsys.readouterr()
    fitted = json.loads(captured.out)
    assert "the thresholds of this evaluation are for them" in captured.err
    scoring = Bundle(folder).manifest.scoring
    stored = scoring["finding_calibration"]
    assert stored
    assert stored.keys() == fitted["finding_calibration"].keys()
    for name, pair in stored.items():
        assert pair == pytest.approx(fitted["finding_calibration"][name], rel=1e-4)
        assert pair[1] != 0.0
    assert call(folder, data, "--json", *alpha) == 0
    after = json.loads(capsys.readouterr().out)
    in_effect = [each["settings"]["calibration_in_effect"] for each in (before, fitted, after)]
    for name in stored:
        assert in_effect[1][name] == pytest.approx(in_effect[2][name], rel=1e-6)
        assert in_effect[1][name] != pytest.approx(in_effect[0][name], rel=0.01)
    for stored_now, evaluated_later, before_fit in zip(
        fitted["findings"], after["findings"], before["findings"], strict=True
    ):
        # The figures printed with --store equal those of the stored model. The decisions do not change.
        assert stored_now["threshold"] == pytest.approx(evaluated_later["threshold"], abs=2e-6)
        if stored_now["name"] in stored:
            assert abs(stored_now["threshold"] - before_fit["threshold"]) > 1e-3
        for figure in ("f1", "sensitivity", "specificity", "auroc"):
            assert stored_now[figure]["value"] == evaluated_later[figure]["value"] == before_fit[figure]["value"]
        assert stored_now["calibration_error"] == stored_now["calibration_error_scaled"]


def test_a_fit_that_is_refused_is_not_stored(
    bundle_folder: Path, data_file: Path, tmp_path: Path, capsys: Capture
) -> None:
    """The random weights do not recognise the findings, so no scale is right."""
    folder = bundles.copied(bundle_folder, tmp_path / "bundle")
    before = bundles.digests(folder)
    assert call(folder, data_file, "--json", "--store") == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "no fit is stored, and the model is unchanged" in captured.err
    assert bundles.digests(folder) == before


def test_an_ensemble_with_a_preset(bundle_folder: Path, data_file: Path, capsys: Capture) -> None:
    assert call(bundle_folder, data_file, "--ensemble", bundle_folder, "--preset", "chexzero", "--json") == 0
    content = json.loads(capsys.readouterr().out)
    assert len(content["model"]["ensemble"]) == 2
    assert (content["alpha"], content["settings"]["threshold"]) == (0.0, "mcc")


def test_a_bad_image_is_reported_and_the_others_are_evaluated(
    bundle_folder: Path, data_file: Path, tmp_path: Path, capsys: Capture
) -> None:
    import shutil

    folder = tmp_path / "data"
    shutil.copytree(data_file.parent, folder)
    (folder / "images" / "3.png").write_bytes(b"no picture")
    (folder / "images" / "e.png").write_bytes(b"no picture")
    manifest, kept = folder / "manifest.csv", tmp_path / "scores.npz"
    manifest.write_text(manifest.read_text().replace("images/4.png,", "images/e.png,"))
    assert call(bundle_folder, manifest, "--json", "-o", tmp_path / "report", "--scores", kept) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert not kept.exists()
    assert not (tmp_path / "report").exists()
    reason = "cannot be read: it is neither PNG, JPEG, TIFF nor DICOM"
    assert "2 of 26 rows of the dataset are bad: line 5: " in captured.err
    assert captured.err.count(reason) in (0, 2), "the reason is the same, whatever the file is called"
    assert call(bundle_folder, manifest, "--json", "--skip-bad-rows") == 0
    captured = capsys.readouterr()
    content = json.loads(captured.out)
    assert (content["data"]["images"], content["data"]["unreadable_lines"]) == (24, [5, 6])
    first, second = (text.split(": ", 2)[2] for text in captured.err.splitlines() if "error: line " in text)
    assert first == second
    assert "neither PNG" in first


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"mask": "box"}, "an unknown column 'box' (did you mean 'boxes'?)"),
        ({"mask": "masks"}, "an unknown column 'masks' (did you mean 'mask'?)"),
        ({"patient": "Patient"}, "an unknown column 'Patient' (did you mean 'patient'?)"),
        ({"split": "spilt"}, "an unknown column 'spilt' (did you mean 'split'?)"),
        ({"patient": "ward"}, "an unknown column 'ward'"),
        ({"Fracture": "Fractrue"}, "an unknown column 'Fractrue' (did you mean 'Fracture'?)"),
        ({"Fracture": "Cyst"}, "an unknown column 'Cyst'"),
        ({"Fracture": "Edema"}, "two columns of one finding"),
    ],
)
@pytest.mark.parametrize("options", [(), ("--skip-bad-rows",)], ids=["", "skipping"])
def test_an_unknown_column_is_named_and_stops_the_run(
    columns: dict[str, str],
    message: str,
    options: tuple[str, ...],
    bundle_folder: Path,
    make_data: MakeData,
    capsys: Capture,
) -> None:
    assert call(bundle_folder, make_data(columns), *options) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    ("column", "cell", "message"),
    [
        ("boxes", '{"Edmea": [[1, 1, 9, 9]]}', "line 2 of {} names an unknown finding (did you mean 'Edema'?)"),
        ("boxes", '{"Edema": [[10, 10, 640, 512]]}', "a box reaches beyond its image of 64 x 54"),
        ("boxes", '{"Edema": [[0.1, 0.1, 0.4, 0.5]]}', "not in shares of the image"),
        ("mask:Edema", "small.png", "a mask is 3 x 4 and its image 64 x 54"),
        ("mask:Edema", "empty.png", "a mask cannot be read"),
        ("mask:Edmea", "small.png", "an unknown column 'mask:Edmea' (did you mean 'mask:Edema'?)"),
        ("findings", "Edema|Mass", "line 2 of {} names an unknown finding"),
    ],
)
def test_invalid_cells_are_refused_before_the_evaluation(
    column: str, cell: str, message: str, bundle_folder: Path, make_data: MakeData, tmp_path: Path, capsys: Capture
) -> None:
    Image.new("L", (4, 3)).save(tmp_path / "small.png")
    (tmp_path / "empty.png").touch()
    cells = itertools.chain([str(tmp_path / cell) if cell.endswith(".png") else cell], itertools.repeat(""))
    table = make_data({"Fracture": column}, lambda row: {**row, "edema": "1", "mask": "", "Fracture": next(cells)})
    assert call(bundle_folder, table) in (1, 2)
    captured = capsys.readouterr()
    assert message.format(table) in captured.err
    assert captured.out == ""


def test_ignored_labels_and_findings_are_noted(
    bundle_folder: Path, make_data: MakeData, tmp_path: Path, capsys: Capture
) -> None:
    with make_data().open() as file:
        first = next(csv.DictReader(file))["image"]
    copy = tmp_path / "copy.png"
    copy.write_bytes(Path(first).read_bytes())
    numbers = itertools.count()

    def change(row: dict[str, str]) -> dict[str, str]:
        row = {**row, "mask": "", "Fracture": ""}
        match next(numbers):
            case 0:
                return {**row, "edema": "", "Fracture": '{"Edema": [[1, 1, 9, 9]]}'}
            case 1:
                return {**row, "image": str(copy)}
        return row

    assert call(bundle_folder, make_data({"Fracture": "boxes"}, change)) == 0
    stderr = capsys.readouterr().err
    assert "1 rows have a mask or box of edema and no label of it" in stderr
    assert "1 images are copies of another image" in stderr


def test_a_declared_finding_is_accepted(bundle_folder: Path, make_data: MakeData, capsys: Capture) -> None:
    assert call(bundle_folder, make_data({"Fracture": "label:Cyst"}), "--json") == 0
    assert "not among the model's findings, and not judged: Cyst" in capsys.readouterr().err


def test_an_invalid_row_stops_the_run(bundle_folder: Path, make_data: MakeData, capsys: Capture) -> None:
    def spoil(row: dict[str, str]) -> dict[str, str]:
        return {**row, "image": f"{row['image']}.gone"} if row["edema"] == "1" else row

    manifest = make_data({}, spoil)
    assert call(bundle_folder, manifest) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "of 40 rows of" in captured.err
    assert captured.err.count("image: the file does not exist") == 3
    assert "--skip-bad-rows" in captured.err
    assert call(bundle_folder, manifest, "--skip-bad-rows") == 0
    captured = capsys.readouterr()
    assert "undefined" in captured.out
    assert "rows of the dataset were left out" in captured.err


def test_files_of_other_splits_need_not_exist(bundle_folder: Path, make_data: MakeData, capsys: Capture) -> None:
    def moved(row: dict[str, str]) -> dict[str, str]:
        return row if row["split"] == "test" else {**row, "image": f"{row['image']}.gone"}

    manifest = make_data({}, moved)
    only = ("--split", "test", "--validation-split", "none", "--json")
    assert call(bundle_folder, manifest, *only) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["data"]["rows_left_out"] == 0
    assert "left out" not in captured.err
    # The rows to fit on are needed.
    assert call(bundle_folder, manifest, "--split", "test") == 1
    assert "the file does not exist" in capsys.readouterr().err
    # A split without a usable row is not an unknown one.
    assert call(bundle_folder, manifest, "--split", "validation") == 1
    assert "rows of" in capsys.readouterr().err
    assert call(bundle_folder, manifest, "--split", "validation", "--skip-bad-rows") == 2
    assert "no rows that can be used" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scores", "x.txt"], ".npz"),
        (["--scores", "{tmp}/none/x.npz"], "does not exist"),
        (["--against", "{tmp}/gone"], "does not exist"),
        (["--split", "dev"], "no split 'dev'"),
        (["--alpha", "2"], "between 0 and 1"),
        (["--preset", "x"], "unknown preset"),
        (["--store", "--preset", "chexzero"], "--store cannot be used with"),
        (["--store", "--findings", "{tmp}/x.toml"], "--store cannot be used with"),
        (["--validation-split", "none", "--store"], "there are no images to fit on"),
        (["--split", "Validation", "--store"], "there are no images to fit on"),
        (["--provider", "tpu"], "unknown provider"),
        (["--batch-size", "0"], "at least one image"),
        (["--threshold", "x"], "criterion"),
    ],
)
def test_a_wrong_call_is_refused_before_any_work(
    arguments: list[str], message: str, bundle_folder: Path, data_file: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert call(bundle_folder, data_file, *(argument.format(tmp=tmp_path) for argument in arguments)) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


def test_a_path_that_is_not_a_model_is_refused(data_file: Path, tmp_path: Path, capsys: Capture) -> None:
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
    assert "pip install '.[evaluate]'" in capsys.readouterr().err


def test_bad_rows_to_fit_on_are_reported(
    bundle_folder: Path, make_data: MakeData, tmp_path: Path, capsys: Capture
) -> None:
    numbers = itertools.count()

    def change(row: dict[str, str]) -> dict[str, str]:
        number = next(numbers) if row["split"] == "validation" else -1
        if number == 0:
            return {**row, "edema": "yes"}
        return {**row, "image": str(tmp_path / "bad.png")} if number == 1 else row

    (tmp_path / "bad.png").write_bytes(b"no picture")
    folder = tmp_path / "report"
    assert call(bundle_folder, make_data({}, change), "--skip-bad-rows", "--json", "-o", folder) == 0
    captured = capsys.readouterr()
    fitted = json.loads(captured.out)["data"]["validation"]
    assert (fitted["images"], fitted["rows_left_out"], fitted["unreadable"]) == (12, 1, 1)
    assert "1 rows to fit on were left out; line 28: column 'edema' is not" in captured.err
    assert "line 29, to fit on: " in captured.err
    for name in ("report.md", "report.html"):
        text = (folder / name).read_text()
        assert "Left out of the rows to fit on: 1 images that could not be read, 1 rows" in text
        assert "1 rows to fit on were left out" in text


def test_a_bad_label_in_another_split_is_not_counted(bundle_folder: Path, make_data: MakeData, capsys: Capture) -> None:
    numbers = itertools.count()

    def change(row: dict[str, str]) -> dict[str, str]:
        if row["split"] == "validation":
            return {**row, "split": "train", "edema": "yes" if next(numbers) == 0 else row["edema"]}
        return row

    assert call(bundle_folder, make_data({}, change), "--json") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["data"]["rows_left_out"] == 0
    assert "left out" not in captured.err


def test_outputs_do_not_replace_inputs(bundle_folder: Path, data_file: Path, tmp_path: Path, capsys: Capture) -> None:
    first = tmp_path / "first.npz"
    first.write_bytes(b"scores")
    (tmp_path / "report").mkdir()
    for arguments, message in (
        (("--against", first, "--scores", first), "is one of the files to read"),
        (("--scores", bundle_folder / "new.npz"), "is inside"),
        (("-o", bundle_folder / "report"), "is inside"),
        (("-o", bundle_folder), "is one of the files to read"),
        (("-o", tmp_path / "report", "--scores", tmp_path / "report" / "new.npz"), "which holds reports only"),
    ):
        assert call(bundle_folder, data_file, *arguments) == 2
        assert message in capsys.readouterr().err
    assert first.read_bytes() == b"scores"
    assert not (bundle_folder / "new.npz").exists()


def test_findings_with_a_similar_name_are_noted(bundle_folder: Path, make_data: MakeData, capsys: Capture) -> None:
    assert call(bundle_folder, make_data({"Fracture": "Effusion", "Pneumothorax": "Nodule"}), "--json") == 0
    assert "not judged: Nodule, Effusion (did you mean Pleural Effusion?)" in capsys.readouterr().err


def test_an_evaluation_without_a_defined_auroc_fails_after_the_reports(
    bundle_folder: Path, make_data: MakeData, tmp_path: Path, capsys: Capture
) -> None:
    def change(row: dict[str, str]) -> dict[str, str]:
        present = "edema" if row["edema"] == "1" else ""
        return {**row, "edema": "", "Pneumothorax": "", "Fracture": present, "mask": ""}

    table = make_data({"Fracture": "findings"}, change)
    assert call(bundle_folder, table, "--json", "-o", tmp_path / "report") == 1
    captured = capsys.readouterr()
    assert "the evaluation has no result" in captured.err
    for text in ("no AUROC is defined", "findings that `findings` does not list count as not stated"):
        assert text in captured.err
        assert any(text in each for each in json.loads(captured.out)["notes"])
    assert "no AUROC is defined" in (tmp_path / "report" / "report.md").read_text()


def test_places_of_an_uncertain_finding_are_noted(bundle_folder: Path, make_data: MakeData, capsys: Capture) -> None:
    boxes = itertools.chain(['{"Edema": [[1, 1, 9, 9]]}'], itertools.repeat(""))
    numbers = itertools.count()

    def change(row: dict[str, str]) -> dict[str, str]:
        edema = "-1" if next(numbers) == 0 else row["edema"]
        return {**row, "edema": edema, "mask": "", "Fracture": next(boxes)}

    assert call(bundle_folder, make_data({"Fracture": "boxes"}, change)) == 0
    assert "1 rows have a mask or box of edema, which is uncertain there" in " ".join(capsys.readouterr().err.split())
