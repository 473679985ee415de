"""Findings files: what the commands print about their prompts. `lrclr convert` and its options."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest

from lrclr import FindingSet
from lrclr.checkpoints import init_checkpoint, load_checkpoint
from lrclr.cli import main
from tests import bundles

if TYPE_CHECKING:
    from pathlib import Path

    Capture = pytest.CaptureFixture[str]

SENTENCES = '[[finding]]\nname = "Edema"\npositive = ["Pulmonary edema."]\nnegative = ["No edema."]\n'
NAMES = '[[finding]]\nname = "Edema"\n[[finding]]\nname = "Nodule"\npositive = ["A nodule."]\n'
LONG = f'{SENTENCES}[[finding]]\nname = "Nodule"\nnegative = ["no", "{"round opacity " * 60}"]\n'


@pytest.fixture
def sentences(bundle: Path, tmp_path: Path) -> Path:
    """A bundle whose findings have full sentences as prompts."""
    folder = bundles.copied(bundle, tmp_path / "sentences")
    (folder / "findings.toml").write_text(SENTENCES)
    return bundles.signed(folder)


def read_stderr(capsys: Capture) -> str:
    return " ".join(capsys.readouterr().err.split())


def test_findings_without_prompts_give_a_warning_if_the_model_has_prompts(
    bundle: Path, sentences: Path, tmp_path: Path, capsys: Capture
) -> None:
    image, file = str(bundles.radiograph(tmp_path / "a.png")), tmp_path / "mine.toml"
    for text, model, warned in ((NAMES, sentences, True), (SENTENCES, sentences, False), (NAMES, bundle, False)):
        file.write_text(text)
        assert main(["predict", image, "-b", str(model), "--findings", str(file), "--json"]) == 0
        warning = f'warning: {file} gives no prompts for Edema: only the name is compared, as "Edema" with "no Edema"'
        assert (warning in read_stderr(capsys)) == warned
    file.write_text(NAMES)
    table = tmp_path / "table.csv"
    table.write_text("image,split,Edema\na.png,test,1\n")
    options = ["--findings", str(file)]
    assert main(["score", str(table), "-o", str(tmp_path / "out"), "-b", str(sentences), *options]) == 0
    assert warning in read_stderr(capsys)
    main(["evaluate", str(sentences), str(table), *options])
    assert warning in read_stderr(capsys)


def test_only_findings_with_default_prompts_are_bare() -> None:
    model_findings, requested = FindingSet.loads(SENTENCES), FindingSet.loads(NAMES)
    assert requested.bare(model_findings) == ("Edema",)
    assert requested.bare(requested) == ()
    assert model_findings.bare(model_findings) == ()
    assert FindingSet.default().bare(FindingSet.default()) == ()


def test_a_prompt_that_is_too_long_is_named_by_file_finding_and_number(
    bundle: Path, checkpoint_folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    image, file = str(bundles.radiograph(tmp_path / "a.png")), tmp_path / "long.toml"
    file.write_text(LONG)
    for command in (
        ["predict", image, "-b", str(bundle)],
        ["convert", str(checkpoint_folder), str(tmp_path / "out")],
        ["export", str(checkpoint_folder), "-o", str(tmp_path / "out")],
    ):
        assert main([*command, "--findings", str(file)]) == 2
        error = read_stderr(capsys)
        assert f"{file}: finding 'Nodule': negative prompt 2 has" in error
        assert error.endswith("Shorten it.")
        assert "opacity" not in error
    assert not (tmp_path / "out").exists()


def test_convert_changes_settings_and_reports_them(checkpoint_folder: Path, tmp_path: Path, capsys: Capture) -> None:
    file, out = tmp_path / "mine.toml", tmp_path / "out"
    file.write_text(SENTENCES)
    command = [
        "convert",
        str(checkpoint_folder),
        str(out),
        "--mean",
        "0.5",
        "--std",
        "0.2,0.3,0.4",
        "--preprocess",
        "clip",
    ]
    assert main([*command, "--region-top-k", "1", "--findings", str(file)]) == 0
    stderr = read_stderr(capsys)
    for text in ("mean: 0.5, 0.5, 0.5, before", "std: 0.2, 0.3, 0.4, before", "selected regions:", "findings: Edema"):
        assert text in stderr
    assert "trained with the other number of regions" in stderr
    before, after = load_checkpoint(checkpoint_folder), load_checkpoint(out)
    assert (after.preprocess.mean, after.preprocess.std) == ((0.5,) * 3, (0.2, 0.3, 0.4))
    assert after.findings == FindingSet.loads(SENTENCES)
    assert after.config.num_regions < before.config.num_regions
    assert before.model.state_dict().keys() == after.model.state_dict().keys()
    for name, tensor in before.model.state_dict().items():
        assert (tensor == after.model.state_dict()[name]).all(), name


def test_findings_with_unchanged_prompts_keep_their_calibration() -> None:
    checkpoint = init_checkpoint("tiny", fusion_trained=True)
    checkpoint.config.finding_calibration = {"Edema": [2.0, 0.1], "Fracture": [3.0, 0.2]}
    both = FindingSet.loads(SENTENCES + '[[finding]]\nname = "Fracture"\n')
    assert checkpoint.changed(findings=both).config.finding_calibration == {"Fracture": [3.0, 0.2]}
    assert checkpoint.config.finding_calibration == {"Edema": [2.0, 0.1], "Fracture": [3.0, 0.2]}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--mean", "a,b,c"], "--mean 'a,b,c' is not one number for each channel"),
        (["--std", "0.1,0.2"], "one number for each channel"),
        (["--std", "0,0,0"], "three numbers above zero"),
        (["--region-top-k", "0"], "region_top_k"),
        (["--region-top-k", "100000"], "the number of patches"),
        (["--preprocess", "chexzero", "--mean", "1,2,3"], "cannot differ in mean or std"),
    ],
)
def test_invalid_settings_are_refused(
    options: list[str], reason: str, checkpoint_folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert main(["convert", str(checkpoint_folder), str(tmp_path / "out"), *options]) == 2
    assert reason in read_stderr(capsys)
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_tokenizer_is_refused_before_torch_is_imported(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    for command in (
        ["export", tmp_path],
        ["convert", tmp_path, tmp_path / "out"],
        ["train", "x.csv", "--base", tmp_path],
    ):
        output = ["-o", tmp_path / "out"] if command[0] == "train" else []
        code = "import sys; sys.modules['torch'] = None; from lrclr.cli import main; sys.exit(main(sys.argv[1:]))"
        process = subprocess.run(
            [bundles.PYTHON, "-c", code, *map(str, [*command, *output])],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert process.returncode == 1, process.stderr
        assert "has neither tokenizer.json, nor vocab.json and merges.txt, nor spiece.model" in process.stderr
        assert "--tokenizer clip" in process.stderr
