"""Every mutant of the list is refused in every precision, by `verify` alone."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from benchmarks.gates.mutants import MUTANTS, Mutant, judge
from lrclr import Bundle
from lrclr.auto import open_engine
from lrclr.bundle import Golden
from lrclr.checkpoints import default_checkpoint, load_checkpoint
from lrclr.engines import EngineOptions, OnnxRuntimeEngine
from lrclr.errors import GateError
from lrclr.verification import gate_images, verify
from lrclr_export import ExportOptions, export_bundle
from lrclr_export.onnx.precision import half_precision, rounding_gates
from lrclr_export.onnx.reference_inputs import reference_gates
from tests import bundles

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from lrclr.checkpoints import Checkpoint

PRECISIONS = ("fp32", "fp16", "int8", "fp8")
# One mutant of each kind, and those that once passed in reduced precision.
QUICK = {
    "fp32": (
        "LayerNorm with epsilon 1e-12, text encoder",
        "region_tokens wrong at batch 1",
        "local_score wrong at the most prompts",
        "mirrored",
        "bilinear",
        "no antialias",
        "the last word dropped",
        "names of two findings exchanged",
    ),
    "fp16": ("one weight off by 0.5, image encoder", "mean off by 0.2", "region_attention wrong at batch 1"),
    "int8": (
        "one weight off by 0.5, image encoder",
        "LayerNorms exchanged, image encoder",
        "LayerNorm with epsilon 1e-12, text encoder",
        "GELU for QuickGELU, text encoder",
        "token numbers off by one",
        "region_tokens wrong at the largest batch",
    ),
}
BY_NAME = {mutant.name: mutant for mutant in MUTANTS}


@pytest.mark.parametrize(("precision", "name"), [(precision, name) for precision in QUICK for name in QUICK[precision]])
def test_a_mutant_is_refused(request: pytest.FixtureRequest, tmp_path: Path, precision: str, name: str) -> None:
    bundle = request.getfixturevalue(f"{precision}_bundle")
    assert judge(BY_NAME[name], bundle, tmp_path / "mutant").found


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_mutant_is_refused(quiet_transformers: None, tmp_path: Path, precision: str) -> None:
    """On trained weights: random biases are 0 and random LayerNorms are equal, so some mutants change nothing."""
    export_bundle(load_checkpoint(default_checkpoint()), tmp_path / "bundle", ExportOptions(precision))
    bundle = tmp_path / "bundle"
    got_through = [mutant.name for mutant in MUTANTS if not judge(mutant, bundle, tmp_path / "mutant").found]
    assert got_through == []


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_copy_without_a_fault_passes(request: pytest.FixtureRequest, tmp_path: Path, precision: str) -> None:
    bundle = request.getfixturevalue(f"{precision}_bundle")
    assert not judge(Mutant("nothing", "nothing"), bundle, tmp_path / "copy").found


def test_mutants_have_different_names() -> None:
    assert len(BY_NAME) == len(MUTANTS)


@pytest.mark.parametrize("alpha", [0.2, 0.85])
def test_mutants_of_the_scores_depend_on_the_bundle(fp32_bundle: Path, tmp_path: Path, alpha: float) -> None:
    folder = bundles.copied(fp32_bundle, tmp_path / "bundle")
    own = {"Edema": [30.0, -1.5]}
    scoring = {**Bundle(folder).manifest.scoring, "alpha": alpha, "score_scale": 12.0, "finding_calibration": own}
    bundles.signed(folder, scoring=scoring)
    for name in ("alpha off by 0.3", "score scale one and a half times as large"):
        change = BY_NAME[name].files
        assert change is not None
        change(folder)
    changed = Bundle(folder).manifest.scoring
    assert abs(changed["alpha"] - alpha) == pytest.approx(0.3)
    assert (changed["score_scale"], changed["finding_calibration"]) == (18.0, {"Edema": [45.0, -1.5]})


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_graphs_of_reduced_precision_pass_float32s_limits_in_float32(
    request: pytest.FixtureRequest, precision: str
) -> None:
    """With float32 arithmetic, graphs of reduced precision pass float32's limits with a large margin."""
    gates = Bundle(request.getfixturevalue(f"{precision}_bundle")).manifest.gates
    errors = [gate for gate in gates if gate["gate"] == "max error" and gate["subject"].endswith("(float32)")]
    assert len(errors) == 5
    assert all(gate["tolerance"] == 1e-4 and gate["value"] < 1e-5 for gate in errors)


def test_verify_reports_what_it_cannot_check_without_onnx(fp16_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lrclr.verification._verify.can_rewrite", lambda: False)
    bundle = Bundle(fp16_bundle)
    report = verify(bundle, OnnxRuntimeEngine(bundle))
    assert report.passed
    assert "onnx is not installed" in " ".join(report.notes)
    assert not any(gate.subject.endswith("(float32)") for gate in report.gates)


def test_inputs_are_compared_with_other_implementations(checkpoint: Checkpoint, golden: Golden) -> None:
    """At the export there is no earlier input to compare with."""

    def refused(changed: Golden) -> list[str]:
        results = reference_gates(changed, gate_images(), checkpoint.preprocess, checkpoint.tokenizer)
        return [result.gate for result in results if not result.passed]

    assert refused(golden) == []
    mirrored = np.ascontiguousarray(golden["pixel_values"][..., ::-1])
    assert refused(replace(golden, tensors={**golden.tensors, "pixel_values": mirrored})) == [
        "difference from the reference"
    ]
    assert refused(replace(golden, tensors={**golden.tensors, "input_ids": golden["input_ids"] + 1})) == [
        "tokens unlike the reference"
    ]
    assert refused(replace(golden, prompts=(*golden.prompts[1:], "x"))) == ["tokens unlike the reference"]


def test_a_wrong_stored_weight_is_refused(checkpoint: Checkpoint) -> None:
    half = half_precision(checkpoint.model)
    assert all(result.passed for result in rounding_gates(checkpoint.model, half))
    half.text_model.encoder.layers[0].mlp.fc1.weight.data[0, 0] += 0.01
    refused = [result.subject for result in rounding_gates(checkpoint.model, half) if not result.passed]
    assert refused == ["text_encoder"]


@pytest.mark.slow
def test_auto_does_not_choose_an_engine_that_verify_refuses(fp32_bundle: Path, tmp_path: Path) -> None:
    """Also if only the task gate refuses it: here the reference recognises findings that the bundle does not."""
    folder = bundles.copied(fp32_bundle, tmp_path / "bundle")
    golden = Golden.load(folder / "golden.npz")
    replace(golden, task_auroc=np.array(0.99, np.float32)).save(folder / "golden.npz")
    bundle = Bundle(bundles.signed(folder))
    (refused,) = verify(bundle, OnnxRuntimeEngine(bundle)).refused
    assert refused.gate == "task AUROC difference"
    with pytest.raises(GateError, match="onnxruntime: the gate task AUROC difference of findings failed"):
        open_engine(bundle, EngineOptions("auto"))


def test_a_small_max_batch_is_respected(fp32_bundle: Path, tmp_path: Path) -> None:
    """Plans of TensorRT accept at most as many images and prompts as their profiles allow."""
    folder = bundles.copied(fp32_bundle, tmp_path / "bundle")
    profiles = [{"batch": [1, 1, 3], "prompts": [1, 2, 5], "tokens": Bundle(folder).manifest.profiles[0]["tokens"]}]
    bundle = Bundle(bundles.signed(folder, max_batch=3, profiles=profiles))
    engine, seen = OnnxRuntimeEngine(bundle), []

    class RecordingEngine:
        name = "watching"

        def run(self, graph: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
            seen.append((graph, {name: array.shape for name, array in inputs.items()}))
            return engine.run(graph, inputs)

    assert verify(bundle, RecordingEngine()).passed
    images = [shapes["pixel_values"][0] for graph, shapes in seen if graph == "image_encoder"]
    assert set(images) <= {1, 2, 3}
