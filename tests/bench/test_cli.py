"""Tests of the command `lrclr bench`."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

# Private: the parts of the measurement have no public names.
from lrclr.bench import _peak, load_result
from lrclr.bundle import GOLDEN, Golden
from lrclr.cli import main
from lrclr.engines import OnnxRuntimeEngine, OpenVINOEngine, products_by_type
from lrclr.engines._openvino import precision_here
from tests import bundles

if TYPE_CHECKING:
    from pathlib import Path

    Capture = pytest.CaptureFixture[str]

BRIEF = ("--what", "image_encoder", "--batch", "1", "--rate", "none", "--seconds", "0.5", "--rounds", "3", "--no-peak")


def test_a_bundle_is_measured(bundle: Path, tmp_path: Path, capsys: Capture) -> None:
    assert main(["bench", str(bundle), *BRIEF, "-o", str(tmp_path / "out")]) == 0
    captured = capsys.readouterr()
    assert "image encoder, batch 1" in captured.out
    assert "good" in captured.out
    assert "1 configurations, 3 rounds" in captured.err
    assert "Research use only" in captured.err
    assert len(load_result(tmp_path / "out").measurements) == 1


def test_options_may_come_first_and_stdout_has_only_json(bundle: Path, capsys: Capture) -> None:
    assert main(["bench", "--quick", "--json", *BRIEF, str(bundle), "--prompts", "6", "--concurrency", "1"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["schema"] == 1
    assert content["measurements"][0]["summary"]["unit"] == "images a second"


@pytest.mark.slow
def test_quick_measures_few_configurations_and_prints_the_duration(bundle: Path, capsys: Capture) -> None:
    assert main(["bench", "--quick", str(bundle), "--seconds", "0.3", "--json"]) == 0
    captured = capsys.readouterr()
    content = json.loads(captured.out)
    assert {each["case"]["stage"] for each in content["measurements"]} == {"classifier", "files"}
    assert len(content["measurements"]) == 4
    assert re.search(r"4 configurations, 5 rounds of \S+ s each: \d+ s from now, up to \d+ s", captured.err)
    assert content["peaks"] == []
    unstable = [each for each in content["measurements"] if each["summary"]["verdict"] == "unstable"]
    assert bool(unstable) == ("are unstable: their windows differ by up to" in captured.err)


@pytest.mark.slow
def test_the_peak_of_the_machine_is_measured(bundle: Path, capsys: Capture) -> None:
    options = [each for each in BRIEF if each != "--no-peak"]
    assert main(["bench", str(bundle), *options, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["peaks"][0]["dtype"] == "fp32"
    assert content["peaks"][0]["gops"] > 0.1
    assert content["bandwidth_gbs"] > 0.1


def test_the_peak_of_int8_is_that_of_engines_with_such_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_peak, "_SIDES", (64,))
    found = {(peak.dtype, peak.by.partition(" ")[0]) for peak in _peak._with_engines(0.001)}
    types = [("bf16", "openvino")] if precision_here(half=True) == "bf16" else []
    assert found == {("fp32", "onnxruntime"), ("int8", "onnxruntime"), ("int8", "openvino"), *types}


@pytest.mark.parametrize("form", ["int8", "qdq"])
def test_the_products_of_the_peak_are_in_int8(form: str, tmp_path: Path) -> None:
    path, left = _peak._product(form, 64, tmp_path / "product.onnx")
    engine = OnnxRuntimeEngine({"product": path}) if form == "int8" else OpenVINOEngine({"product": path})
    if "int8" not in engine.product_types:
        pytest.skip("this processor has no instructions for int8")
    assert products_by_type(engine.operators("product", {"left": left})) == {"int8": 1}


def test_wrong_answers_give_exit_code_3_and_reports(bundle: Path, tmp_path: Path, capsys: Capture) -> None:
    """The graphs do not compute the stored answers, because these were exchanged and the manifest was signed again."""
    copy = bundles.copied(bundle, tmp_path / "bundle")
    golden = Golden.load(copy / GOLDEN)
    exchanged = {**golden.tensors, "image_embedding": np.roll(golden["image_embedding"], 1, axis=0)}
    (copy / GOLDEN).unlink()
    replace(golden, tensors=exchanged).save(copy / GOLDEN)
    bundles.signed(copy)
    assert main(["bench", str(copy), *BRIEF, "-o", str(tmp_path / "out")]) == 3
    captured = capsys.readouterr()
    assert "WRONG" in captured.out
    assert "the answers of bundle fp32 onnxruntime are wrong" in captured.err
    assert load_result(tmp_path / "out").wrong
    assert "WRONG" in (tmp_path / "out" / "bench.html").read_text()


@pytest.mark.parametrize(
    "arguments",
    [
        ["nowhere"], ["--what", "decoder"], ["--batch", "many"], ["--batch", "0"], ["--prompts", "3"],
        ["--rate", "fast"], ["--rate", "%"], ["--stability", "10"], ["--p99", "-1"], ["--engine", "abacus"],
        ["--rounds", "0"], ["--seconds", "0"],
    ],
)  # fmt: skip
def test_a_wrong_call_is_refused(bundle: Path, arguments: list[str], capsys: Capture) -> None:
    given = arguments if arguments == ["nowhere"] else [str(bundle), *arguments]
    code = main(["bench", *given])
    assert code == (1 if arguments == ["nowhere"] else 2)
    assert "Traceback" not in capsys.readouterr().err


def test_other_files_in_the_report_folder_are_not_changed(bundle: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    assert main(["bench", str(bundle), *BRIEF, "-o", str(tmp_path)]) == 2
    assert "configurations" not in capsys.readouterr().err, "it should have been told before anything was measured"
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_help_describes_measuring(capsys: Capture) -> None:
    assert main(["bench", "--help"]) == 0
    assert "{TARGET}..." in capsys.readouterr().out
    assert main(["bench", "compare", "--help"]) == 0
    assert "--threshold" in capsys.readouterr().out
