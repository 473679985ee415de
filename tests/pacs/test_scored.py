"""`lrclr score FOLDER --sr DIR`: DICOM results for the rows of a folder of scores."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pydicom
import pytest

from lrclr.cli import main
from lrclr.samples import sample_paths
from tests.dicom_results import conformance
from tests.pacs.studies import study

if TYPE_CHECKING:
    from pathlib import Path

    Capture = pytest.CaptureFixture[str]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Two DICOM files and a PNG."""
    folder = tmp_path / "archive"
    folder.mkdir()
    for number in range(2):
        (folder / f"{number}.dcm").write_bytes(study(number))
    shutil.copy(sample_paths()[3], folder)
    return folder


def score(archive: Path, bundle: Path, *options: object) -> int:
    command = ["score", archive, "-o", archive.parent / "scores", "-b", bundle, *options]
    return main([str(each) for each in command])


@pytest.mark.slow
def test_results_of_a_folder(archive: Path, fp32_bundle: Path, capsys: Capture) -> None:
    reports = archive.parent / "sr"
    # Rows that were written before get their results, too.
    assert score(archive, fp32_bundle) == 0
    for made, before in ((2, 0), (0, 2)):
        assert score(archive, fp32_bundle, "--sr", reports, "--json") == 2
        captured = capsys.readouterr()
        assert f"DICOM results: {made} images now, {before} before" in captured.err
        assert "no results: 1 × it is not a DICOM file" in captured.err
    assert json.loads(captured.out)["images"] == 3
    written = sorted(reports.iterdir())
    assert len(written) == 2
    assert not [line for file in written for line in conformance.errors_of(file)]
    # Results of another kind are written for all images, and the reports stay.
    assert score(archive, fp32_bundle, "--sr", reports, "--gsps", archive.parent / "gsps") == 2
    assert "2 images now" in capsys.readouterr().err
    assert sorted(reports.iterdir()) == written


def test_rows_and_predictions_give_the_same_report(archive: Path, fp32_bundle: Path, capsys: Capture) -> None:
    (archive / sample_paths()[3].name).unlink()
    folders = [archive.parent / name for name in ("by score", "by predict")]
    assert score(archive, fp32_bundle, "--sr", folders[0]) == 0
    predict = ["predict", str(archive), "-b", str(fp32_bundle), "--sr", str(folders[1]), "--batch-size", "1"]
    assert main([*predict, "--threads", "1"]) == 0
    one, other = (sorted(folder.iterdir()) for folder in folders)
    assert [file.name for file in one] == [file.name for file in other]
    for pair in zip(one, other, strict=True):
        contents = [pydicom.dcmread(file).ContentSequence for file in pair]
        assert contents[0] == contents[1]


def test_an_archive_that_refuses_leaves_the_scores(archive: Path, fp32_bundle: Path, capsys: Capture) -> None:
    (archive / sample_paths()[3].name).unlink()
    from tests.bundles import free_ports

    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}/dicom-web"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.sleep", lambda _: None)
        assert score(archive, fp32_bundle, "--store", url, "--sr", archive.parent / "sr", "--json") == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["scored"] == 2
    assert "results are missing for now" in captured.err
    assert "the connection failed" in captured.err
    assert "Run again to send what is missing" in captured.err
    # The folder gets them nevertheless.
    assert len(list((archive.parent / "sr").iterdir())) == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--query", "Modality=DX"], "--query belongs to a DICOMweb URL"),
        (["--store", "nowhere"], "--store names no place"),
        (["--store", "http://pacs.example/dicom-web"], "without encryption"),
    ],
)
def test_calls_that_are_wrong(
    archive: Path, fp32_bundle: Path, capsys: Capture, options: list[str], words: str
) -> None:
    assert score(archive, fp32_bundle, *options) == 2
    assert words in capsys.readouterr().err
    assert not (archive.parent / "scores").exists()
