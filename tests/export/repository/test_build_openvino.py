"""OpenVINO as a bundle's engine: through the gates, with what Triton needs, and back again; or nothing changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from google.protobuf import text_format  # type: ignore[import-untyped, unused-ignore]
from tritonclient.grpc import model_config_pb2 as triton

from lrclr import Bundle
from lrclr.auto import open_engine
from lrclr.bundle import GRAPHS
from lrclr.errors import BundleError, GateError
from lrclr_export import build_bundle
from tests import bundles

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def built(fp16_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle for OpenVINO. Shared: copy it before changing anything."""
    folder = bundles.copied(fp16_bundle, tmp_path_factory.mktemp("built") / "bundle")
    done = bundles.call("build", folder, "--engine", "openvino")
    assert done.returncode == 0, done.stderr
    assert "the engine is now openvino (asked for)" in done.stdout
    return folder


def test_the_bundle_says_what_it_is_for(fp16_bundle: Path, built: Path) -> None:
    bundle = Bundle(built)
    assert bundle.manifest.engine == {"name": "openvino", "why": "asked for"}
    (entry,) = bundle.manifest.plans
    assert entry["gates_ran_on"].startswith("openvino ")
    assert len(entry["gates"]) > 20
    assert all(gate["passed"] for gate in entry["gates"])
    assert entry["graphs"]["image_encoder"]["file"] == "image_encoder/1/model.xml"
    assert {entry["graphs"][graph]["file"] for graph in ("text_encoder", "fusion_head")} == {
        "text_encoder/1/model.onnx",
        "fusion_head/1/model.onnx",
    }
    assert open_engine(bundle).name.startswith("openvino ")
    before, now = bundles.digests(fp16_bundle), bundles.digests(built)
    configs = {f"{graph}/config.pbtxt" for graph in GRAPHS}
    assert {name for name in before if now[name] != before[name]} == {"manifest.json", "README.md", *configs}
    assert now.keys() - before.keys() == {"image_encoder/1/model.xml", "image_encoder/1/model.bin"}


@pytest.mark.parametrize("graph", GRAPHS)
def test_the_configuration_is_for_tritons_backend(built: Path, graph: str) -> None:
    """It takes a model's own axes alone: with ``max_batch_size`` it would compute so many rows for every request."""
    config = text_format.Parse((built / graph / "config.pbtxt").read_text(), triton.ModelConfig())
    assert (config.backend, config.max_batch_size) == ("openvino", 0)
    assert not config.HasField("dynamic_batching")
    assert config.default_model_filename == ("model.xml" if graph == "image_encoder" else "model.onnx")
    assert config.instance_group[0].kind == triton.ModelInstanceGroup.KIND_CPU
    assert config.parameters["HINT_BF16"].string_value == "YES"
    shapes = Bundle(built).manifest.graphs[graph]["inputs"]
    for tensor in config.input:
        assert list(tensor.dims) == [size if isinstance(size, int) else -1 for size in shapes[tensor.name]["shape"]]
    (warmup,) = config.model_warmup
    for name, entry in warmup.inputs.items():
        elements = 1
        for size in entry.dims:
            elements *= size
        width = {triton.TYPE_FP32: 4, triton.TYPE_INT64: 8}[entry.data_type]
        assert (built / graph / "warmup" / name).stat().st_size == elements * width


@pytest.mark.parametrize(("precision", "wanted"), [("fp32", set()), ("int8", {"text_encoder"})])
def test_what_is_not_served_in_bfloat16(
    precision: str, wanted: set[str], quiet_transformers: None, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    folder = bundles.copied(bundles.exported(tmp_path_factory.getbasetemp(), precision), tmp_path / "bundle")
    build_bundle(folder, "openvino")
    configs = {
        graph: text_format.Parse((folder / graph / "config.pbtxt").read_text(), triton.ModelConfig())
        for graph in GRAPHS
    }
    assert {graph for graph, config in configs.items() if "HINT_BF16" in config.parameters} == wanted


def test_back_to_onnx_runtime(fp16_bundle: Path, built: Path, tmp_path: Path) -> None:
    folder = bundles.copied(built, tmp_path / "bundle")
    build_bundle(folder, "onnxruntime")
    assert Bundle(folder).manifest.engine["name"] == "onnxruntime"
    for graph in GRAPHS:
        assert (folder / graph / "config.pbtxt").read_text() == (fp16_bundle / graph / "config.pbtxt").read_text()
    again = build_bundle(folder, "openvino")
    assert bundles.digests(again.path) == bundles.digests(built)


def test_a_gate_that_refuses_changes_nothing(fp16_bundle: Path, tmp_path: Path) -> None:
    folder = bundles.copied(fp16_bundle, tmp_path / "bundle")
    limits = Bundle(folder).manifest.tolerances
    bundles.signed(folder, tolerances={**limits, "spread": 10.0})
    before = bundles.digests(folder)
    with pytest.raises(GateError):
        build_bundle(folder, "openvino")
    assert bundles.digests(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_changed_file_is_seen(built: Path, tmp_path: Path) -> None:
    damaged = bundles.copied(built, tmp_path / "bundle")
    bundles.flip(damaged / "image_encoder" / "1" / "model.bin")
    with pytest.raises(BundleError, match=r"model\.bin"):
        Bundle(damaged)


@pytest.mark.parametrize("engine", ["openvino", "auto"])
def test_nothing_else_goes_with_it(fp16_bundle: Path, tmp_path: Path, engine: str) -> None:
    folder = bundles.copied(fp16_bundle, tmp_path / "bundle")
    done = bundles.call("build", folder, "--engine", engine, "--strip")
    assert done.returncode == 2
    assert "cannot be used with options for plans" in done.stderr


@pytest.mark.slow
def test_auto_keeps_what_was_measured(fp16_bundle: Path, tmp_path: Path) -> None:
    folder = bundles.copied(fp16_bundle, tmp_path / "bundle")
    chosen = build_bundle(folder, "auto").manifest.engine
    assert chosen["name"] in {"onnxruntime", "openvino"}
    assert "ms for a radiograph here" in chosen["why"]


@pytest.mark.slow
def test_export_takes_it_too(checkpoint_folder: Path, tmp_path: Path) -> None:
    done = bundles.run(["export", checkpoint_folder, "-o", tmp_path / "bundle", "--engine", "openvino"])
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("engine openvino (asked for), fp16\n")
    assert Bundle(tmp_path / "bundle").manifest.engine["name"] == "openvino"
