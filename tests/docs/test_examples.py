"""Every script in `examples/` does its task and is run as its docstring says."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from lrclr import Bundle, ZeroShotClassifier, load_checkpoint
from lrclr.embedding import write_image_embeddings
from lrclr.samples import sample_paths
from tests import bundles
from tests.docs.pages import ROOT

if TYPE_CHECKING:
    from lrclr.triton.server import TritonServer

EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("[!_]*.py"))


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(name: str, *arguments: object) -> int:
    """Run an example with arguments, and return its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [name, *map(str, arguments)])
        try:
            runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
        except SystemExit as ended:
            return int(ended.code or 0)
    return 0


def test_every_example_is_listed_and_has_a_test() -> None:
    listed = re.findall(r"\]\((\w+)\.py\)", (ROOT / "examples/README.md").read_text())
    tests = Path(__file__).read_text()
    assert sorted(listed) == EXAMPLES
    assert not [name for name in EXAMPLES if f'run("{name}"' not in tests]


def test_the_random_checkpoint_has_the_layout_of_chexzero() -> None:
    from examples.export_chexzero import SMALL, random_chexzero

    random_chexzero(Path("random.pt"), SMALL)
    checkpoint = load_checkpoint("random.pt", heads=(2, 1))
    assert checkpoint.preprocess.kind == "chexzero"
    assert not checkpoint.config.fusion_trained


@pytest.mark.slow
def test_export_chexzero(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("export_chexzero", "--small", "--precision", "fp32", "-o", "bundle") == 0
    printed = capsys.readouterr().out
    assert f"gates hold, manifest {Bundle('bundle').sha256}" in printed
    assert "max error of image_encoder.image_embedding" in printed


def test_verify_in_ci(fp32_bundle: Path) -> None:
    assert run("verify_in_ci", fp32_bundle, "-o", "gates.json") == 0
    gates = json.loads(Path("gates.json").read_text())["gates"]
    assert len(gates) > 30
    assert all(gate["passed"] for gate in gates)


def test_verify_in_ci_refuses_a_damaged_bundle(fp32_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = bundles.copied(fp32_bundle, Path("bundle"))
    bundles.flip(copy / "tokenizer.json")
    assert run("verify_in_ci", copy) == 1
    assert "error: " in capsys.readouterr().err


@pytest.mark.triton
def test_serve_and_ask(served: TritonServer, fp16_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Uses the server that other tests share. Starting a server is tested elsewhere."""
    assert run("serve_and_ask", fp16_bundle, sample_paths()[1], "--server", served.grpc) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(Bundle(fp16_bundle).findings.names)
    assert [float(line.rsplit(maxsplit=1)[1].rstrip("%")) for line in lines] == sorted(
        (float(line.rsplit(maxsplit=1)[1].rstrip("%")) for line in lines), reverse=True
    )


def test_score_folder(fp32_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path("images")
    folder.mkdir()
    for path in sample_paths():
        shutil.copy(path, folder)
    assert run("score_folder", fp32_bundle, folder, "--finding", "Edema", "--top", 2) == 0
    first = capsys.readouterr().out.splitlines()
    assert first[0] == "4 images: 4 scored now, 0 before, 0 failed"
    assert len(first) == 3
    assert all("Edema" in line for line in first[1:])
    assert run("score_folder", fp32_bundle, folder, "--finding", "Edema", "--top", 2) == 0
    again = capsys.readouterr().out.splitlines()
    assert again[0].startswith("4 images: 0 scored now, ")
    assert again[1:] == first[1:]


def test_own_findings(fp32_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("own_findings", fp32_bundle) == 0
    lines = re.findall(r"(?m)^(.+?) +\d+\.\d%  most attention: \d+,\d+ to \d+,\d+$", capsys.readouterr().out)
    assert lines == ["Effusion, bare name", "Effusion, as in reports", "Large heart"]


def test_evaluate_chexpert(fp32_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("evaluate_chexpert", fp32_bundle, "-o", "report") == 0
    assert "4 images (validation 4), 14 findings" in capsys.readouterr().out
    assert json.loads(Path("report/report.json").read_text())


@pytest.mark.parametrize("search", [[], ["--usearch"]])
def test_similar_studies(fp32_bundle: Path, capsys: pytest.CaptureFixture[str], search: list[str]) -> None:
    folder = Path("images")
    folder.mkdir()
    for path in sample_paths():
        shutil.copy(path, folder)
        with Image.open(path) as picture:
            picture.rotate(1).save(folder / f"turned-{path.name}")
    (folder / "bad.png").write_text("no image")
    query = sample_paths()[2]
    assert run("similar_studies", fp32_bundle, folder, "--image", query, "--top", 3, *search) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == "embeddings.parquet: 8 of 9 images embedded"
    found = [line.split(maxsplit=1) for line in lines]
    assert [Path(name).name for _, name in found[:2]] == [query.name, f"turned-{query.name}"]
    cosines = [float(cosine) for cosine, _ in found]
    assert cosines == sorted(cosines, reverse=True)
    assert cosines[0] == pytest.approx(1, abs=1e-3)
    assert run("similar_studies", fp32_bundle, folder, "--text", "edema", *search) == 0
    assert len(capsys.readouterr().out.splitlines()) == 8


def test_similar_studies_does_not_compare_models(fp32_bundle: Path, fp16_bundle: Path) -> None:
    file = Path("embeddings.parquet")
    write_image_embeddings(ZeroShotClassifier.from_bundle(fp16_bundle), sample_paths()[:1], file)
    with pytest.raises(SystemExit, match="another bundle"):
        runpy.run_path(str(ROOT / "examples/similar_studies.py"))["embeddings_of"](
            ZeroShotClassifier.from_bundle(fp32_bundle), Path(), file
        )


def test_linear_probe(fp32_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The probe separates fine noise from coarse noise, also in images of patients that it was not fitted on."""
    rng = np.random.default_rng(0)
    rows, paths = ["file,label,patient"], list[Path]()
    for number in range(40):
        label = number % 2
        side = (8, 64)[label]
        pixels = rng.integers(0, 256, (side, side), dtype=np.uint8)
        paths.append(Path(f"{number}.png"))
        Image.fromarray(pixels).resize((64, 64)).save(paths[-1])
        rows.append(f"{number}.png,{label},patient {number // 4}")
    write_image_embeddings(ZeroShotClassifier.from_bundle(fp32_bundle), paths, Path("embeddings.parquet"))
    Path("labels.csv").write_text("\n".join([*rows, "other.png,1,patient 99"]) + "\n")
    assert run("linear_probe", "embeddings.parquet", "labels.csv") == 0
    printed = capsys.readouterr().out
    assert "40 images of 10 patients, 20 positive" in printed
    assert float(printed.rsplit(maxsplit=1)[1]) > 0.9
