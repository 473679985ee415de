"""Bad input gives one clear line and the documented exit code, without a traceback."""

from __future__ import annotations

import json
import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from lrclr.archive import ScoreOptions
from lrclr.cli import main
from lrclr.embedding import EmbedOptions
from lrclr.errors import UsageError
from lrclr.samples import SAMPLES, sample_paths
from tests import bundles
from tests.raster_files import png_chunk

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Capture = pytest.CaptureFixture[str]


def bomb(path: Path) -> None:
    """A PNG whose header claims 100,000 by 100,000 pixels."""
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    chunks = {b"IHDR": header, b"IDAT": zlib.compress(bytes(1000)), b"IEND": b""}
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(name, data) for name, data in chunks.items()))


def nan_tiff(path: Path) -> None:
    Image.fromarray(np.full((8, 8), np.nan, np.float32)).save(path)


def five_channels(path: Path) -> None:
    """A TIFF of eight by eight pixels with five samples each."""
    rows, samples, data = 8, 5, bytes(8 * 8 * 5)
    short, long = 3, 4
    entries = [
        (256, short, 1, 8),  # width and height
        (257, short, 1, rows),
        (258, short, 1, 8),  # without compression
        (259, short, 1, 1),  # declared as RGB
        (262, short, 1, 2),  # offset of the pixels
        (273, long, 1, 8),  # where the pixels are
        (277, short, 1, samples),
        (278, short, 1, rows),
        (279, long, 1, len(data)),
    ]
    table = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(data)) + data + table)


def truncated_dicom(path: Path) -> None:
    whole = SAMPLES[3].path("dicom").read_bytes()
    path.write_bytes(whole[: len(whole) * 9 // 10])


def text_file(path: Path) -> None:
    path.write_text("Dear colleague")


def empty_file(path: Path) -> None:
    path.touch()


BAD_IMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "letter.png": (text_file, "as an image"),
    "empty.png": (empty_file, "empty"),
    "half.dcm": (truncated_dicom, "truncated"),
    "bomb.png": (bomb, "100000"),
    "nan.tiff": (nan_tiff, "NaN"),
    "five.tiff": (five_channels, "cannot be decoded"),
}


def error_lines(text: str) -> list[str]:
    assert "Traceback" not in text
    return [line for line in text.splitlines() if line.startswith("error: ")]


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_a_bad_image_is_named_and_the_other_images_are_answered(
    name: str, bundle: Path, tmp_path: Path, capsys: Capture
) -> None:
    make, reason = BAD_IMAGES[name]
    make(tmp_path / name)
    first, last = (bundles.radiograph(tmp_path / f"{text_file}.png", seed) for seed, text_file in enumerate("az"))
    files = [first, tmp_path / name, last]
    assert main(["predict", *map(str, files), "-b", str(bundle), "--json"]) == 1
    captured = capsys.readouterr()
    answers = [json.loads(line) for line in captured.out.splitlines()]
    assert [answer["file"] for answer in answers] == [str(file) for file in files]
    assert ["error" in answer for answer in answers] == [False, True, False]
    assert reason in answers[1]["error"]
    about_it, summary = error_lines(captured.err)
    assert str(tmp_path / name) in about_it
    assert reason in about_it
    assert summary == "error: 1 of 3 images could not be read"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["predict", "no-such-file.png"], "no-such-file.png"),
        (["predict", ""], "argument 2 is empty: a shell variable in the command may not be set. Write . for"),
        (["predict", "{image}", "--heatmap="], "--heatmap is empty"),
        (["evaluate", "", "data.csv"], "argument 2 is empty"),
        (["predict", "{image}", "--alpha", "1.5"], "between 0 and 1"),
        (["predict", "{image}", "--json", "--csv"], "cannot be used together"),
        (["predict", "{image}", "--findings", "{empty}"], "empty"),
        (["predict", "{image}", "--batch-size", "0"], "at least one image"),
        (["predict", "{image}", "--threads", "0"], "at least one thread"),
        (["predict", "{image}", "--provider", "tpu"], "cpu or cuda"),
        (["predict", "{folder}"], "contains no image"),
        (["predict", "{image}", "--no-such-option"], "--no-such-option"),
        (["predict", "{image}", "--heatmap", "{image}"], "takes a folder, not"),
        (["predict", "{image}", "--heatmap", "{folder}/new.png"], "takes a folder, not"),
        (["predict", "--json"], "Missing argument 'images'. Try `lrclr predict --help`"),
        (["deploy", "kubernetes"], "Try `lrclr deploy kubernetes --help`"),
        (["bench", "compare", "a"], "Try `lrclr bench compare --help`"),
        (["no-such-command"], "No such command 'no-such-command'. Try `lrclr --help`"),
        (["export", "{folder}", "--fp16", "--fp32"], "cannot be used together"),
        (["export", "{folder}", "--tolerance", "cosine"], "NAME=VALUE"),
        (["export", "{folder}", "--engine", "abacus"], "abacus"),
        (["init", "{folder}/x", "--arch", "vit-z-1"], "vit-b-32"),
    ],
)
def test_a_wrong_call_gives_exit_code_2(
    arguments: list[str], reason: str, bundle: Path, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.toml").touch()
    places = {
        "image": bundles.radiograph(tmp_path / "a.png"),
        "empty": tmp_path / "empty.toml",
        "folder": tmp_path / "folder",
    }
    command = [argument.format(**places) for argument in arguments]
    if command[0] == "predict":
        command += ["-b", str(bundle)]
    assert main(command) == 2
    captured = capsys.readouterr()
    (line,) = error_lines(captured.err)
    assert reason in line
    assert captured.out == ""


def test_a_bundle_with_a_changed_byte_is_refused(bundle: Path, tmp_path: Path, capsys: Capture) -> None:
    damaged = bundles.copied(bundle, tmp_path / "bundle")
    bundles.flip(damaged / "text_encoder" / "1" / "model.onnx")
    for command in (["verify", str(damaged)], ["predict", str(sample_paths()[0]), "-b", str(damaged)]):
        assert main(command) == 1
        (line,) = error_lines(capsys.readouterr().err)
        assert "text_encoder/1/model.onnx was changed since the export" in line


def test_a_missing_graph_is_named(bundle: Path, tmp_path: Path, capsys: Capture) -> None:
    damaged = bundles.copied(bundle, tmp_path / "bundle")
    (damaged / "fusion_head" / "1" / "model.onnx").unlink()
    assert main(["verify", str(damaged)]) == 1
    (line,) = error_lines(capsys.readouterr().err)
    assert "fusion_head/1/model.onnx is missing" in line


def test_a_manifest_of_another_version_is_refused(bundle: Path, tmp_path: Path, capsys: Capture) -> None:
    other = bundles.copied(bundle, tmp_path / "bundle")
    manifest = json.loads((other / "manifest.json").read_text())
    (other / "manifest.json").write_text(json.dumps({**manifest, "schema": 99}))
    assert main(["verify", str(other)]) == 1
    (line,) = error_lines(capsys.readouterr().err)
    assert "version 99" in line
    assert "lrclr export" in line


def test_debug_shows_the_traceback_wherever_the_option_stands(tmp_path: Path, capsys: Capture) -> None:
    for command in (["--debug", "verify", str(tmp_path)], ["verify", str(tmp_path), "--debug"]):
        assert main(command) == 1
        shown = capsys.readouterr().err
        assert "Traceback" in shown
        assert "BundleError" in shown


def test_a_call_without_arguments_prints_the_help_and_gives_exit_code_2(capsys: Capture) -> None:
    assert main([]) == 2
    assert "Research use only" in capsys.readouterr().out


def test_no_patient_data_are_printed(bundle: Path, tmp_path: Path) -> None:
    import pydicom

    secret, identifier = "Zebra^Quux", "MRN-7741903"
    for number, keep in enumerate((1.0, 0.6)):
        dataset = pydicom.dcmread(SAMPLES[3].path("dicom"))
        dataset.PatientName, dataset.PatientID = secret, identifier
        dataset.save_as(tmp_path / f"{number}.dcm")
        whole = (tmp_path / f"{number}.dcm").read_bytes()
        (tmp_path / f"{number}.dcm").write_bytes(whole[: int(len(whole) * keep)])
    done = bundles.run(["predict", tmp_path, "-b", bundle, "--json", "--debug", "--heatmap", tmp_path / "maps"])
    assert done.returncode == 1
    (picture,) = (tmp_path / "maps").iterdir()
    for text in (done.stdout, done.stderr, picture.read_bytes().decode("latin-1"), picture.name):
        assert "Zebra" not in text
        assert identifier not in text


@pytest.mark.parametrize("command", ["predict", "score", "embed"])
def test_a_negative_frame_is_refused_before_any_work(command: str, tmp_path: Path, capsys: Capture) -> None:
    """Without a bundle, which would be opened first."""
    output = [] if command == "predict" else ["-o", str(tmp_path / "out")]
    call = [command, str(sample_paths()[0]), *output, "-b", str(tmp_path / "no bundle"), "--frame", "-1"]
    assert main(call) == 2
    assert "--frame" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_negative_frame_is_refused_in_python(tmp_path: Path) -> None:
    for make in (lambda: ScoreOptions(tmp_path, frame=-1), lambda: EmbedOptions(frame=-1)):
        with pytest.raises(UsageError, match="frame is -1: a frame is an integer from 0"):
            make()
