"""`lrclr predict --sr DIR --sc DIR --gsps DIR`."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pydicom

from lrclr.cli import main
from lrclr.samples import sample_paths
from tests.dicom_results import conformance

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    Capture = pytest.CaptureFixture[str]


def test_predict_writes_objects_beside_the_answers(bundle: Path, tmp_path: Path, capsys: Capture) -> None:
    files = [str(path) for path in sample_paths("dicom")[:2]]
    options = [text for kind in ("sr", "sc", "gsps") for text in (f"--{kind}", str(tmp_path / kind))]
    command = ["predict", *files, "-b", str(bundle), "--json", *options]
    assert main(command) == 0
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 2
    assert f"structured reports are in {tmp_path / 'sr'}" in captured.err
    written = sorted(tmp_path.rglob("*.dcm"))
    assert len(written) == 6
    assert not [line for file in written for line in conformance.errors_of(file)]
    referenced = {pydicom.dcmread(file).SOPInstanceUID for file in files}
    evidence = [
        element.value
        for file in written
        for element in pydicom.dcmread(file).iterall()
        if element.keyword == "ReferencedSOPInstanceUID"
    ]
    assert set(evidence) == referenced
    assert main(command) == 0
    assert sorted(tmp_path.rglob("*.dcm")) == written
    capsys.readouterr()
    # The heat maps are not taken for radiographs.
    assert main(["predict", str(tmp_path / "sc"), "-b", str(bundle)]) == 2
    assert "heat maps" in capsys.readouterr().err


def test_a_png_is_answered_but_has_no_report(bundle: Path, tmp_path: Path, capsys: Capture) -> None:
    files = [str(sample_paths("png")[0]), str(sample_paths("dicom")[0])]
    assert main(["predict", *files, "-b", str(bundle), "--json", "--sr", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert [json.loads(line)["file"] for line in captured.out.splitlines()] == files
    assert "it is not a DICOM file, and a result must belong to a patient and a study" in captured.err
    assert len(list(tmp_path.iterdir())) == 1


def test_a_header_without_a_study_uid_gets_no_report(bundle: Path, tmp_path: Path, capsys: Capture) -> None:
    dataset = pydicom.dcmread(sample_paths("dicom")[0])
    del dataset.StudyInstanceUID
    dataset.save_as(tmp_path / "odd.dcm")
    command = ["predict", str(tmp_path / "odd.dcm"), "-b", str(bundle), "--json", "--sr", str(tmp_path / "sr")]
    assert main(command) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["findings"]
    assert "StudyInstanceUID is missing or not a UID" in captured.err


def test_what_was_left_out_of_reports_is_printed(bundle: Path, tmp_path: Path, capsys: Capture) -> None:
    """By all commands that write results, without a value of the file."""
    images = tmp_path / "images"
    images.mkdir()
    for number in range(2):
        # The name is in Latin 1, and the file says that its character set is UTF-8.
        dataset = pydicom.dcmread(sample_paths("dicom")[number])
        dataset.SpecificCharacterSet = "ISO_IR 192"
        dataset.PatientName = "Mxller^Jxrgen"
        file = images / f"{number}.dcm"
        dataset.save_as(file)
        file.write_bytes(file.read_bytes().replace(b"Mxller^Jxrgen", "Müller^Jürgen".encode("latin-1")))
    expected = "results of 2 images: PatientName does not fit the character set of the file and is left empty"
    for command in (["predict"], ["score", "-o", str(tmp_path / "scores")]):
        assert main([*command, str(images), "-b", str(bundle), "--sr", str(tmp_path / command[0])]) == 0
        captured = capsys.readouterr()
        assert expected in captured.err
        assert "ller" not in captured.err + captured.out
        for file in (tmp_path / command[0]).iterdir():
            assert not pydicom.dcmread(file).PatientName


def test_a_missing_extra_is_named(
    bundle: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "highdicom", None)
    command = ["predict", str(sample_paths("dicom")[0]), "-b", str(bundle), "--sr", str(tmp_path / "sr")]
    assert main(command) == 2
    assert "pip install '.[dicom-results]'" in capsys.readouterr().err
    assert not (tmp_path / "sr").exists()
