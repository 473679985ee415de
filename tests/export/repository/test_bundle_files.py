"""The files of an export: the same bytes every time, no traces of the machine, and valid Triton configurations."""

from __future__ import annotations

import getpass
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from google.protobuf import text_format  # type: ignore[import-untyped, unused-ignore]
from tritonclient.grpc import model_config_pb2 as triton

from lrclr import Bundle, ZeroShotClassifier, read_image
from lrclr.bundle import GRAPHS
from lrclr.checkpoints import load_checkpoint
from lrclr.engines import OnnxRuntimeEngine
from lrclr.errors import BundleError, UsageError
from lrclr.samples import sample_paths
from lrclr_export import ExportOptions, export_bundle
from lrclr_export.profiles import profiles
from lrclr_export.repository.triton_config import sizes_of, triton_configs
from tests import bundles

if TYPE_CHECKING:
    from lrclr.checkpoints import Checkpoint

REPOSITORY = Path(__file__).parents[3]
DTYPES = {triton.TYPE_FP32: onnx.TensorProto.FLOAT, triton.TYPE_INT64: onnx.TensorProto.INT64}


def parsed(text: str) -> Any:
    return text_format.Parse(text, triton.ModelConfig())


@pytest.mark.slow
def test_a_second_export_gives_the_same_bytes(checkpoint_folder: Path, fp16_bundle: Path, tmp_path: Path) -> None:
    """In another process, from another folder, with another order of hashes."""
    done = bundles.run(
        ["export", checkpoint_folder, "-o", "again", "--fp16", "--engine", "onnxruntime"],
        cwd=tmp_path,
        env=bundles.environment(PYTHONHASHSEED="7"),
    )
    assert done.returncode == 0, done.stderr
    assert bundles.digests(tmp_path / "again") == bundles.digests(fp16_bundle)
    assert "manifest.json" in bundles.digests(fp16_bundle)
    assert "gates passed" in done.stdout
    assert "Research use only" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["again"]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_no_file_tells_about_the_machine(request: pytest.FixtureRequest, precision: str) -> None:
    bundle: Path = request.getfixturevalue(f"{precision}_bundle")
    secrets = [str(REPOSITORY), str(Path.home()), str(bundle.parent), "site-packages", "Traceback", 'File "', ".py"]
    secrets += [getpass.getuser()] if len(getpass.getuser()) > 4 else []
    # Compressed and tokenizer data contain any short text by chance.
    for path in (*bundle.rglob("*.onnx"), *bundle.rglob("*.pbtxt"), bundle / "manifest.json", bundle / "findings.toml"):
        data = path.read_bytes().replace(b"lrclr/1/model.py", b"")  # the server's model is a file of the bundle
        assert [secret for secret in secrets if secret.encode() in data] == [], path.name
    assert not re.search(r'"/|\d{4}-\d\d-\d\d', (bundle / "manifest.json").read_text())


@pytest.mark.parametrize("graph", GRAPHS)
def test_a_graph_carries_no_trace_of_its_export(fp16_bundle: Path, graph: str) -> None:
    model = onnx.load(Bundle(fp16_bundle).graph_path(graph))
    parts = [model, model.graph, *model.functions]
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    values = [*model.graph.input, *model.graph.output, *model.graph.value_info, *model.graph.initializer]
    for part in (*parts, *nodes, *values):
        assert not part.doc_string
        assert not getattr(part, "metadata_props", [])


@pytest.mark.parametrize("graph", GRAPHS)
def test_config_pbtxt_agrees_with_graph_and_manifest(fp16_bundle: Path, graph: str) -> None:
    bundle = Bundle(fp16_bundle)
    config = parsed((fp16_bundle / graph / "config.pbtxt").read_text())
    model = onnx.load(bundle.graph_path(graph)).graph
    assert (config.name, config.backend) == (graph, "onnxruntime")
    for described, actual in ((config.input, model.input), (config.output, model.output)):
        assert [tensor.name for tensor in described] == [value.name for value in actual]
        for tensor, value in zip(described, actual, strict=True):
            shape = [dim.dim_value or -1 for dim in value.type.tensor_type.shape.dim]
            # Triton adds the batch axis itself if it batches.
            assert list(tensor.dims) == (shape[1:] if config.max_batch_size else shape)
            assert DTYPES[tensor.data_type] == value.type.tensor_type.elem_type
            if config.max_batch_size:
                assert shape[0] == -1
    expected = {"image_encoder": bundle.manifest.max_batch, "text_encoder": 256, "fusion_head": 0}
    assert config.max_batch_size == expected[graph]
    assert config.HasField("dynamic_batching") == (config.max_batch_size > 0)
    assert config.dynamic_batching.max_queue_delay_microseconds == 0


def test_a_manifest_tells_the_sizes_that_the_network_fixes(checkpoint: Checkpoint, fp16_bundle: Path) -> None:
    assert sizes_of(Bundle(fp16_bundle).manifest) == checkpoint.config.axis_sizes


@pytest.mark.parametrize("max_batch", [1, 7, 128])
def test_max_batch_reaches_the_image_encoder(checkpoint: Checkpoint, max_batch: int) -> None:
    sizes = profiles(checkpoint.findings, checkpoint.tokenizer, max_batch=max_batch)
    assert sizes[0]["batch"] == [1, 1, 1]
    assert sizes[-1]["batch"] == [1, min(8, max_batch), max_batch]
    configs = triton_configs(checkpoint.config.axis_sizes, sizes)
    assert parsed(configs["image_encoder"]).max_batch_size == max_batch


def test_no_batch_below_one_or_above_what_a_server_takes(checkpoint: Checkpoint) -> None:
    for size in (0, 10**8):
        with pytest.raises(UsageError, match="from 1 to 1024"):
            profiles(checkpoint.findings, checkpoint.tokenizer, max_batch=size)


def test_the_committed_configs_are_what_the_exporter_writes() -> None:
    """Do not edit `triton_repo/*/config.pbtxt` by hand: export the default checkpoint, and commit the written files."""
    default = load_checkpoint("default")
    sizes = profiles(default.findings, default.tokenizer, max_batch=ExportOptions().max_batch)
    written = triton_configs(default.config.axis_sizes, sizes)
    committed = {path.parent.name: path.read_text() for path in REPOSITORY.glob("triton_repo/*/config.pbtxt")}
    assert committed == written


@pytest.mark.parametrize("graph", GRAPHS)
def test_the_warm_up_is_what_the_graph_takes(fp16_bundle: Path, graph: str) -> None:
    config = parsed((fp16_bundle / graph / "config.pbtxt").read_text())
    (warmup,) = config.model_warmup
    inputs: dict[str, Any] = {}
    for name, entry in warmup.inputs.items():
        raw = (fp16_bundle / graph / "warmup" / entry.input_data_file).read_bytes()
        kind = {triton.TYPE_FP32: np.float32, triton.TYPE_INT64: np.int64}[entry.data_type]
        array = np.frombuffer(raw, kind).reshape(list(entry.dims))
        inputs[name] = array[None] if config.max_batch_size else array
    for output in OnnxRuntimeEngine(Bundle(fp16_bundle)).run(graph, inputs).values():
        assert np.isfinite(output).all()
        assert np.ptp(output) > 0


def test_manifest_says_what_was_done(checkpoint: Checkpoint, fp16_bundle: Path) -> None:
    manifest = Bundle(fp16_bundle).manifest
    assert manifest.checkpoint == {"source": "lrclr", "sha256": checkpoint.sha256}
    assert manifest.scoring == {"alpha": bundles.ALPHA, "score_scale": 1.0, "fusion_trained": True}
    assert manifest.model["vision_config"]["patch_size"] == 16
    assert manifest.preprocess == checkpoint.preprocess.to_dict()
    assert manifest.tokenizer["sha256"] == checkpoint.tokenizer.sha256
    assert (manifest.precision, manifest.opset, manifest.max_batch) == ("fp16", 20, 32)
    assert manifest.tolerances["overridden"] == []
    assert manifest.gates
    assert all(gate["passed"] for gate in manifest.gates)
    assert {"torch", "onnx", "onnxruntime", "gates_ran_on"} <= manifest.made_with.keys()
    # Hashes are of the files on disk, and of all of them but the manifest.
    on_disk = bundles.digests(fp16_bundle)
    assert {name: entry["sha256"] for name, entry in manifest.files.items()} | {
        "manifest.json": on_disk["manifest.json"]
    } == on_disk


@pytest.mark.slow
def test_mean_rollout_with_the_lowest_opset_passes_every_gate(checkpoint_folder: Path, tmp_path: Path) -> None:
    config = json.loads((checkpoint_folder / "config.json").read_text())
    bundles.copied(checkpoint_folder, tmp_path / "checkpoint")
    config |= {"region_rollout": "mean", "region_top_k": 4}
    (tmp_path / "checkpoint" / "config.json").write_text(json.dumps(config))
    export_bundle(load_checkpoint(tmp_path / "checkpoint"), tmp_path / "bundle", ExportOptions("fp32", opset=18))
    bundle = Bundle(tmp_path / "bundle")
    assert all(gate["passed"] for gate in bundle.manifest.gates)
    model = onnx.load(bundle.graph_path("image_encoder"), load_external_data=False)
    (node,) = [node for node in model.graph.node if node.op_type == "RegionSelect"]
    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    assert (attributes["mean"], attributes["top_k"]) == (1, 4)
    assert {opset.domain: opset.version for opset in model.opset_import} == {"": 18, "lrclr": 2}
    assert bundle.manifest.opset == 18


def test_weights_beside_the_graph_are_part_of_the_bundle(fp32_bundle: Path) -> None:
    manifest = Bundle(fp32_bundle).manifest
    for graph in GRAPHS:
        name = f"{graph}/1/model.onnx"
        assert (fp32_bundle / f"{name}.data").stat().st_size == manifest.files[f"{name}.data"]["bytes"]
    assert (fp32_bundle / "text_encoder/1/model.onnx").stat().st_size < 100_000


def test_weights_beside_the_graph_answer_alike(fp32_bundle: Path, tmp_path: Path) -> None:
    """The result equals that of the same graphs with their weights inside, as former versions wrote them."""
    bundle, inside = Bundle(fp32_bundle), {}
    for graph in GRAPHS:
        inside[graph] = tmp_path / f"{graph}.onnx"
        onnx.save(onnx.load(bundle.graph_path(graph)), inside[graph])
    images = [read_image(path) for path in sample_paths()[:2]]
    expected = ZeroShotClassifier(bundle, OnnxRuntimeEngine(inside)).predict(images)
    assert ZeroShotClassifier.from_bundle(fp32_bundle).predict(images) == expected


@pytest.mark.parametrize("graph", GRAPHS)
def test_a_changed_byte_in_the_weights_beside_is_noticed(fp32_bundle: Path, tmp_path: Path, graph: str) -> None:
    copy = bundles.copied(fp32_bundle, tmp_path / "copy")
    bundles.flip(copy / graph / "1" / "model.onnx.data")
    with pytest.raises(BundleError, match=rf"{graph}/1/model\.onnx\.data was changed since the export"):
        Bundle(copy)
    (copy / graph / "1" / "model.onnx.data").unlink()
    with pytest.raises(BundleError, match=rf"{graph}/1/model\.onnx\.data is missing"):
        Bundle(copy)


@pytest.mark.parametrize("opset", [17, 24, 0, -1])
def test_an_opset_that_is_not_written_is_refused_before_anything_is_done(
    checkpoint: Checkpoint, tmp_path: Path, opset: int
) -> None:
    with pytest.raises(UsageError, match="Choose 18 to 23"):
        export_bundle(
            checkpoint, tmp_path / "bundle", ExportOptions("fp32", opset=opset), progress=bundles.no_task_expected()
        )
    assert list(tmp_path.iterdir()) == []
