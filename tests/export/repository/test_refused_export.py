"""A refused or impossible export leaves the existing bundle complete, and no other files."""

from __future__ import annotations

import json
import os
import re
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from benchmarks.gates import faults, graph_edit, output_faults
from lrclr import Bundle
from lrclr.bundle import Manifest, file_table
from lrclr.cli import main
from lrclr.errors import ExportError, GateError, LrclrError, UsageError
from lrclr.verification import Tolerances, verify
from lrclr_export import ExportOptions, export_bundle
from tests import bundles

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from lrclr.checkpoints import Checkpoint
    from lrclr_export.onnx.graphs import GraphSpec
    from lrclr_export.onnx.onnx_graph import TypedGraph

    Exports = Callable[..., None]


@pytest.fixture
def exporter_gives(monkeypatch: pytest.MonkeyPatch, fp32_graphs: Mapping[str, TypedGraph]) -> Exports:
    """A function that makes torch's exporter return these graphs. Everything after it is real, and fast."""

    def install(*faulty: TypedGraph) -> None:
        graphs = {**fp32_graphs, **{graph.name: graph for graph in faulty}}

        def typed_onnx_from_module(spec: GraphSpec, *, opset: int) -> TypedGraph:
            assert opset == 20
            return graphs[spec.name]

        monkeypatch.setattr("lrclr_export.repository.pipeline.typed_onnx_from_module", typed_onnx_from_module)

    install()
    return install


@pytest.fixture
def old(fp32_bundle: Path, tmp_path: Path) -> Path:
    """An existing bundle."""
    return bundles.copied(fp32_bundle, tmp_path / "place" / "bundle")


def assert_untouched(old: Path, before: dict[str, str]) -> None:
    assert [path.name for path in old.parent.iterdir()] == [old.name]
    assert bundles.digests(old) == before


@pytest.mark.parametrize(
    ("graph", "layer"),
    [
        ("image_encoder", "vision_model.encoder.layers.1"),
        pytest.param("text_encoder", "text_model.encoder.layers.0", marks=pytest.mark.slow),
        pytest.param("fusion_head", "fusion_head.blocks.1.mlp", marks=pytest.mark.slow),
    ],
)
def test_a_fault_in_one_layer_refuses_the_bundle_and_is_named(
    exporter_gives: Exports,
    fp32_graphs: Mapping[str, TypedGraph],
    checkpoint_folder: Path,
    old: Path,
    capsys: pytest.CaptureFixture[str],
    graph: str,
    layer: str,
) -> None:
    before = bundles.digests(old)
    whole = fp32_graphs[graph]
    exporter_gives(graph_edit.with_faults(whole, faults.noisy_weights(whole.layers[layer])))
    assert main(["export", str(checkpoint_folder), "-o", str(old), "--fp32"]) == 3
    out, err = capsys.readouterr()
    (error,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert "the gates refused" in error
    assert f"the first bad layer of {graph} is {layer} (cosine " in error
    assert "--tolerance NAME=VALUE" in error
    assert "FAILED" in out
    assert "│ passed" not in out
    assert re.search(r"\d+ of \d+ gates passed", err)
    assert_untouched(old, before)


@pytest.mark.slow
def test_a_refused_first_export_leaves_nothing_at_all(
    exporter_gives: Exports, checkpoint: Checkpoint, fp32_graphs: Mapping[str, TypedGraph], tmp_path: Path
) -> None:
    exporter_gives(graph_edit.with_faults(fp32_graphs["text_encoder"], faults.without_causal_mask))
    with pytest.raises(GateError, match="text_encoder"):
        export_bundle(checkpoint, tmp_path / "bundle", ExportOptions("fp32"))
    assert list(tmp_path.iterdir()) == []


def test_fp32_where_fp16_was_asked_for_is_refused(
    exporter_gives: Exports, checkpoint_folder: Path, old: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exporter returns single precision without a message."""
    before = bundles.digests(old)
    assert main(["export", str(checkpoint_folder), "-o", str(old), "--fp16"]) == 3
    assert "products not in fp16 of image_encoder is" in capsys.readouterr().err
    assert_untouched(old, before)


@pytest.mark.slow
def test_a_tolerance_can_be_raised_and_that_is_recorded(
    exporter_gives: Exports,
    checkpoint_folder: Path,
    fp32_graphs: Mapping[str, TypedGraph],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    exporter_gives(graph_edit.with_faults(fp32_graphs["fusion_head"], output_faults.plus("local_score", 0.001)))
    target = tmp_path / "bundle"
    command = ["export", str(checkpoint_folder), "-o", str(target), "--fp32"]
    assert main(command) == 3
    assert "absolute error of fusion_head.local_score is 0.00" in capsys.readouterr().err
    overrides = ["--tolerance", "score_error=0.01", "--tolerance", "probability_error=1e-4"]
    assert main([*command, *overrides]) == 0
    limits = Bundle(target).manifest.tolerances
    assert limits["overridden"] == ["probability_error", "score_error"]
    assert (limits["score_error"], limits["probability_error"]) == (0.01, 1e-4)
    strict = Tolerances.for_precision("fp32").to_dict()
    assert {name: limits[name] for name in strict} == {**strict, "score_error": 0.01, "probability_error": 1e-4}
    measured = {(gate["gate"], gate["subject"]): gate for gate in Bundle(target).manifest.gates}
    score = measured["absolute error", "fusion_head.local_score"]
    assert score["tolerance"] == 0.01
    # verify uses the recorded limit.
    assert main(["verify", str(target)]) == 0


def test_a_tolerance_can_be_lowered(
    exporter_gives: Exports, checkpoint_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["export", str(checkpoint_folder), "-o", str(tmp_path / "bundle"), "--fp32", "--tolerance", "max_error=0"]
    assert main(command) == 3
    assert "above the tolerance 0" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cosin=0.9", "unknown tolerance 'cosin'"),
        ("cosine", "is not NAME=VALUE"),
        ("cosine=", "is not NAME=VALUE"),
        ("cosine=much", "is not NAME=VALUE"),
        ("=0.9", "unknown tolerance ''"),
        ("cosine=nan", "cannot be nan"),
        ("cosine=inf", "cannot be inf"),
        ("cosine=-1", "cannot be -1"),
        ("overridden=1", "unknown tolerance 'overridden'"),
    ],
)
def test_a_tolerance_that_is_none_is_the_callers_error(
    checkpoint_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    assert main(["export", str(checkpoint_folder), "-o", str(tmp_path / "bundle"), "--tolerance", text]) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_good_export_takes_the_place_of_the_old_bundle(
    exporter_gives: Exports, checkpoint: Checkpoint, old: Path
) -> None:
    export_bundle(checkpoint, old, ExportOptions("fp32", max_batch=3))
    assert Bundle(old).manifest.max_batch == 3
    assert [path.name for path in old.parent.iterdir()] == [old.name]


@pytest.mark.parametrize("name", ["notes.txt", "config.yaml", "other_model"])
def test_a_folder_with_other_files_is_not_replaced(
    exporter_gives: Exports, checkpoint_folder: Path, old: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (old / name).write_text("mine")
    before = bundles.digests(old)
    assert main(["export", str(checkpoint_folder), "-o", str(old), "--fp32"]) == 2
    assert name in capsys.readouterr().err
    assert bundles.digests(old) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(
    exporter_gives: Exports, checkpoint_folder: Path, old: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old.parent.chmod(0o500)
    try:
        assert main(["export", str(checkpoint_folder), "-o", str(old), "--fp32"]) == 1
        assert "could not be written" in capsys.readouterr().err
    finally:
        old.parent.chmod(0o700)


@pytest.mark.parametrize("part", ["torch.export.export", "torch.onnx.export"])
def test_torch_failing_is_an_export_error(
    part: str, monkeypatch: pytest.MonkeyPatch, checkpoint_folder: Path, old: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    def fails(*_: object, **__: object) -> None:
        raise torch.onnx.errors.OnnxExporterError("no translation for aten.something\nand much more")

    monkeypatch.setattr(part, fails)
    before = bundles.digests(old)
    assert main(["export", str(checkpoint_folder), "-o", str(old), "--fp32"]) == 1
    assert "error: image_encoder could not be exported: no translation for aten.something\n" in capsys.readouterr().err
    assert_untouched(old, before)


def test_a_graph_that_cannot_be_made_while_the_last_one_is_written(
    monkeypatch: pytest.MonkeyPatch,
    checkpoint: Checkpoint,
    fp32_graphs: Mapping[str, TypedGraph],
    old: Path,
) -> None:
    before, threads = bundles.digests(old), threading.active_count()
    traces_text, writes = threading.Event(), []
    save = type(fp32_graphs["text_encoder"]).save

    def waiting(graph: TypedGraph, path: Path) -> object:
        writes.append((graph.name, traces_text.wait(60)))
        return save(graph, path)

    def fails_for_text(spec: GraphSpec, *, opset: int) -> TypedGraph:
        if spec.name == "text_encoder":
            traces_text.set()
            raise ExportError("text_encoder could not be exported")
        return fp32_graphs[spec.name]

    monkeypatch.setattr("lrclr_export.onnx.onnx_graph.TypedGraph.save", waiting)
    monkeypatch.setattr("lrclr_export.repository.pipeline.typed_onnx_from_module", fails_for_text)
    with pytest.raises(ExportError, match="text_encoder"):
        export_bundle(checkpoint, old, ExportOptions("fp32"))
    assert writes == [("image_encoder", True)]
    assert threading.active_count() == threads
    assert_untouched(old, before)


def test_a_checkpoint_with_nan_is_no_bundle(checkpoint: Checkpoint, tmp_path: Path) -> None:
    import copy

    import torch

    model = copy.deepcopy(checkpoint.model)
    with torch.no_grad():
        model.vision_model.encoder.layers[0].mlp.fc1.weight[0, 0] = float("nan")
    with pytest.raises(LrclrError, match="not finite"):
        export_bundle(replace(checkpoint, model=model), tmp_path / "bundle", ExportOptions("fp32"))
    assert list(tmp_path.iterdir()) == []


def test_gates_can_be_run_again_from_the_bundle_alone(fp16_bundle: Path) -> None:
    """The results equal those of the exporter."""
    from lrclr import OnnxRuntimeEngine

    bundle = Bundle(fp16_bundle)
    report = verify(bundle, OnnxRuntimeEngine(bundle))
    again = {(each.gate, each.subject): each.to_dict() for each in report.gates}
    recorded = {(gate["gate"], gate["subject"]): gate for gate in bundle.manifest.gates}
    assert {key: recorded[key] for key in again} == again
    assert {gate for gate, _ in recorded.keys() - again.keys()} == {
        "difference from the reference",
        "tokens unlike the reference",
        "products not in fp16",
        "delicate nodes in half precision",
        "rounding of weights, in steps",
    }
    json.dumps(list(again.values()), allow_nan=False)


def test_options_are_checked_before_anything_is_done(checkpoint: Checkpoint, tmp_path: Path) -> None:
    for options in (
        ExportOptions("int4"),
        ExportOptions(max_batch=0),
        ExportOptions(opset=17),
        ExportOptions(tolerances={"nothing": 1.0}),
    ):
        with pytest.raises(UsageError):
            export_bundle(checkpoint, tmp_path / "bundle", options, progress=bundles.no_task_expected())
    assert list(tmp_path.iterdir()) == []


def test_verify_refuses_a_bundle_whose_hashes_are_right_and_whose_answers_are_not(
    fp32_graphs: Mapping[str, TypedGraph], old: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Like a runtime that computes something else than the one with which the bundle was exported."""
    bad = graph_edit.with_faults(fp32_graphs["text_encoder"], faults.without_causal_mask)
    bad.save(old / "text_encoder" / "1" / "model.onnx")
    manifest = Manifest.from_json((old / "manifest.json").read_text())
    (old / "manifest.json").write_text(replace(manifest, files=file_table(old)).to_json())
    assert main(["verify", str(old), "--json"]) == 3
    out, err = capsys.readouterr()
    refused = {(gate["gate"], gate["subject"]) for gate in json.loads(out)["gates"] if not gate["passed"]}
    assert ("change by tokens after EOT", "text_encoder.text_embedding") in refused
    assert err.startswith("error: the gates refused: cosine of text_encoder.text_embedding is ")
    assert len(err.splitlines()) == 1
    assert main(["verify", str(old)]) == 3
    assert "FAILED" in capsys.readouterr().out
