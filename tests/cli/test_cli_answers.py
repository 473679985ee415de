"""Results of `lrclr predict`, `init`, `convert` and `verify` for valid input."""

from __future__ import annotations

import csv
import io
import json
import shutil
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from lrclr import ZeroShotClassifier, read_image
from lrclr.cli import main
from lrclr.images import read_reduced
from lrclr.samples import sample_paths
from tests import bundles
from tests.kept_exports import exporting_once

if TYPE_CHECKING:
    from pathlib import Path

    Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize("exact", [False, True])
def test_json_lines_equal_the_classifiers_predictions(
    bundle: Path, tmp_path: Path, capsys: Capture, exact: bool
) -> None:
    files = bundles.enlarged(tmp_path)
    assert main(["predict", *map(str, files), "-b", str(bundle), "--json", *["--exact"] * exact]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    classifier = ZeroShotClassifier.from_bundle(bundle)
    reduced = [read_reduced(file, classifier.spec.preprocess) for file in files]
    assert any(image.pixels.shape[0] < image.height for image in reduced)
    expected = classifier.predict([read_image(file) for file in files] if exact else reduced)
    assert lines == [
        {"file": str(file), "exact": exact, **json.loads(json.dumps(answer.to_dict()))}
        for file, answer in zip(files, expected, strict=True)
    ]


def test_png_and_dicom_of_one_radiograph_give_the_same_answers(bundle: Path, capsys: Capture) -> None:
    probabilities = []
    for kind in ("png", "dicom"):
        files = sample_paths("png" if kind == "png" else "dicom")
        assert main(["predict", *map(str, files), "-b", str(bundle), "--json"]) == 0
        answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        probabilities.append([f["probability"] for answer in answers for f in answer["findings"]])
    assert probabilities[0] == pytest.approx(probabilities[1], abs=5e-3)


def test_csv_has_a_column_for_each_finding(bundle: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "mine.toml").write_text('[[finding]]\nname = "Edema"\n\n[[finding]]\nname = "Pacemaker, left"\n')
    bundles.radiograph(tmp_path / "a,b.png")
    (tmp_path / "no.png").write_text("x")
    command = ["predict", str(tmp_path), "-b", str(bundle), "--csv", "--findings", str(tmp_path / "mine.toml")]
    assert main(command) == 1
    good, bad = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert list(good) == ["file", "Edema", "Pacemaker, left", "exact", "regions", "error", "remarks", "warnings"]
    assert good["file"] == str(tmp_path / "a,b.png")
    assert 0 < float(good["Edema"]) < 1
    assert good["error"] == ""
    assert bad["Edema"] == ""
    assert "as an image" in bad["error"]


def test_remarks_about_a_file_are_printed(bundle: Path, tmp_path: Path, capsys: Capture) -> None:
    odd = bundles.odd_radiograph(tmp_path / "odd.dcm")
    good = sample_paths("dicom")[0]
    for exact in ([], ["--exact"]):
        assert main(["predict", str(odd), str(good), "-b", str(bundle), "--json", *exact]) == 0
        captured = capsys.readouterr()
        first, second = map(json.loads, captured.out.splitlines())
        assert first["remarks"] == list(bundles.REMARKS)
        assert second["remarks"] == []
        assert f"odd.dcm: {'; '.join(bundles.REMARKS)}" in " ".join(captured.err.split())
    assert main(["predict", str(odd), "-b", str(bundle), "--csv"]) == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert row["remarks"] == "; ".join(bundles.REMARKS)


def test_warnings_are_printed_and_such_images_can_be_refused(bundle: Path, tmp_path: Path, capsys: Capture) -> None:
    turned = tmp_path / "turned.png"
    Image.open(sample_paths("png")[0]).rotate(90, expand=True).save(turned)
    command = ["predict", str(turned), str(sample_paths("png")[0]), "-b", str(bundle)]
    assert main([*command, "--json"]) == 0
    captured = capsys.readouterr()
    assert [json.loads(line)["warnings"] for line in captured.out.splitlines()] == [["turned"], []]
    assert "turned.png: warnings: turned (the picture seems to be turned" in " ".join(captured.err.split())
    assert main([*command, "--csv"]) == 0
    assert [row["warnings"] for row in csv.DictReader(io.StringIO(capsys.readouterr().out))] == ["turned", ""]
    assert main(command) == 0
    assert "warnings: turned" in capsys.readouterr().out
    assert main([*command, "--json", "--refuse", "turned", "--refuse", "colour"]) == 1
    captured = capsys.readouterr()
    first, second = map(json.loads, captured.out.splitlines())
    assert "the image is refused: turned" in first["error"]
    assert "probability" in second["findings"][0]
    assert "1 of 2 images were refused" in captured.err
    assert main([*command, "--refuse", "sideways"]) == 2
    assert "unknown warning 'sideways'" in capsys.readouterr().err


def test_tables_explain_their_columns(bundle: Path, tmp_path: Path, capsys: Capture) -> None:
    files = [str(bundles.radiograph(tmp_path / f"{number}.png", number)) for number in range(2)]
    assert main(["predict", *files, "-b", str(bundle)]) == 0
    shown = capsys.readouterr().out
    assert shown.count("regions with the most attention: patch number, share") == 2
    assert shown.count("Patches are numbered from 0, row by row") == 1
    untrained = bundles.copied(bundle, tmp_path / "bundle")
    scoring = json.loads((bundle / "manifest.json").read_text())["scoring"]
    bundles.signed(untrained, scoring={**scoring, "fusion_trained": False, "alpha": 0.0})
    assert main(["predict", *files, "-b", str(untrained)]) == 0
    shown = capsys.readouterr().out
    assert shown.count("cosine with positive / negative prompts") == 2
    assert shown.count("The probability compares the mean cosine") == 1
    assert "attention" not in shown


def test_a_heat_map_of_the_longest_name_is_kept(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for letter in "ab":
        bundles.radiograph(tmp_path / "in" / f"{'é' * 125}{letter}.png", 0)
    assert main(["predict", str(tmp_path / "in"), "-b", str(bundle), "--heatmap", str(tmp_path / "out")]) == 0
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [f"{'é' * 100}-2.heatmap.png", f"{'é' * 100}.heatmap.png"]


def test_heat_maps_of_files_with_the_same_name_are_all_kept(bundle: Path, tmp_path: Path, capsys: Capture) -> None:
    for number, folder in enumerate(("left", "right")):
        (tmp_path / "in" / folder).mkdir(parents=True)
        bundles.radiograph(tmp_path / "in" / folder / "x.png", number)
    assert main(["predict", str(tmp_path / "in"), "-b", str(bundle), "--heatmap", str(tmp_path / "out")]) == 0
    maps = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in maps] == ["x.png-2.heatmap.png", "x.png.heatmap.png"]
    for path in maps:
        with Image.open(path) as picture:
            assert picture.format == "PNG"
    assert maps[0].read_bytes() != maps[1].read_bytes()
    captured = capsys.readouterr()
    assert "Research use only" in captured.err
    assert "Research use only" not in captured.out


def test_init_convert_export_verify(checkpoint_folder: Path, tmp_path: Path, capsys: Capture) -> None:
    first, second, target = (str(tmp_path / name) for name in ("first", "second", "bundle"))
    assert main(["init", first, "--arch", "tiny", "--seed", "7"]) == 0
    assert "random weights" in capsys.readouterr().err
    assert main(["init", first, "--arch", "tiny"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    # The graphs of these weights are in the cache of tests. torch's exporter would take ten seconds.
    shutil.copyfile(checkpoint_folder / "model.safetensors", tmp_path / "first" / "model.safetensors")
    assert main(["convert", first, str(tmp_path / "third"), "--preprocess", "siglip"]) == 0
    assert "siglip preprocessing" in capsys.readouterr().err
    assert main(["convert", first, second, "--preprocess", "clip"]) == 0
    assert "alpha = 0" in capsys.readouterr().err
    with exporting_once():
        assert main(["export", second, "-o", target, "--fp16", "--max-batch", "4"]) == 0
    captured = capsys.readouterr()
    assert "FAILED" not in captured.out
    assert "alpha = 0" in captured.err
    assert main(["verify", target, "--json"]) == 0
    assert all(gate["passed"] for gate in json.loads(capsys.readouterr().out)["gates"])
    bundle = ZeroShotClassifier.from_bundle(target).bundle
    assert (bundle.preprocess.kind, bundle.manifest.precision, bundle.manifest.max_batch) == ("clip", "fp16", 4)
    image = str(bundles.radiograph(tmp_path / "a.png"))
    assert main(["predict", image, "-b", target, "--alpha", "0.5"]) == 2
    assert "not trained" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["verify", "{bundle}"], ["predict", "{image}", "-b", "{bundle}", "--csv"]])
def test_predict_and_verify_do_not_import_torch(command: list[str], bundle: Path, tmp_path: Path) -> None:
    import subprocess

    image = bundles.radiograph(tmp_path / "a.png")
    arguments = [argument.format(bundle=bundle, image=image) for argument in command]
    blocker = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "onnx", "onnxscript", "tritonclient", "safetensors"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
from lrclr.cli import main
sys.exit(main())
"""
    done = subprocess.run([bundles.PYTHON, "-c", blocker, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    refused = subprocess.run(
        [bundles.PYTHON, "-c", blocker, "export", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 2
    assert "pip install '.[export]'" in refused.stderr
