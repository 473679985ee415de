"""Tests of TensorRT plans on a machine with a GPU: they run, and give PyTorch's answers.

Run them with ``make test-gpu``. They go from the library to the server, so the first failure is the one to fix first.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from lrclr import Bundle, ZeroShotClassifier, read_image
from lrclr.bundle import Golden
from lrclr.checkpoints import init_checkpoint
from lrclr.engines import PLAN_ENGINES, TensorRTEngine, gpus, tensorrt_library
from lrclr.errors import EngineError, LrclrError
from lrclr.samples import sample_paths
from lrclr_export import BuildOptions, ExportOptions, build_bundle, export_bundle
from tests import bundles

if TYPE_CHECKING:
    from pathlib import Path


def _reason(engine: str) -> str:
    if not gpus():
        return "there is no GPU"
    try:
        tensorrt_library(engine)
    except LrclrError as error:
        return str(error)
    return ""


ENGINES = [
    pytest.param(
        engine,
        marks=[
            pytest.mark.tensorrt if engine == "tensorrt" else pytest.mark.gpu,
            pytest.mark.skipif(bool(_reason(engine)), reason=_reason(engine)),
        ],
    )
    for engine in PLAN_ENGINES
]
TENSORRT = ENGINES[:1]


@pytest.fixture(scope="session")
def planned(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A bundle with plans of an engine for this machine, built once. Every gate has passed on the GPU."""
    bundles_by_engine: dict[str, Path] = {}

    def build(engine: str) -> Path:
        if engine not in bundles_by_engine:
            base = tmp_path_factory.getbasetemp()
            folder = bundles.copied(bundles.exported(base, "fp16"), base / f"planned-{engine}")
            build_bundle(folder, BuildOptions(engine))
            bundles_by_engine[engine] = folder
        return bundles_by_engine[engine]

    return build


@pytest.mark.parametrize("engine", ENGINES)
def test_the_gates_hold_on_the_gpu(planned: Any, engine: str) -> None:
    (entry,) = Bundle(planned(engine)).manifest.plans
    assert entry["gates_ran_on"] == str(gpus()[0])
    assert {"cosine", "region gap", "layers that write half precision"} <= {gate["gate"] for gate in entry["gates"]}


@pytest.mark.parametrize("engine", TENSORRT)
def test_the_plugin_is_in_the_plan(engine: str, tmp_path: Path) -> None:
    """The kernel needs heads of width 64, which the tiny network of the other tests does not have."""
    vision = {"hidden_size": 128, "num_attention_heads": 2, "num_hidden_layers": 4, "intermediate_size": 64}
    loose = {name: limit for name, limit in bundles.LOOSE.items() if name != "region_gap"}
    bundle = export_bundle(
        init_checkpoint("vit-b-32", vision_config=vision), tmp_path / "bundle", ExportOptions(tolerances=loose)
    )
    build_bundle(bundle.path, BuildOptions(engine))
    bundle = Bundle(bundle.path)
    (entry,) = bundle.manifest.plans
    assert entry["region_selection"] == "plugin"
    # The plan contains PTX, so that it runs without Python and lrclr.
    assert b"region_select_" in bundle.plan_path("image_encoder", entry).read_bytes()


@pytest.mark.parametrize("engine", ENGINES)
def test_answers_equal_onnx_runtimes(planned: Any, engine: str) -> None:
    images = [read_image(path) for path in sample_paths()]
    from_plan = ZeroShotClassifier.from_bundle(planned(engine)).predict(images)
    from_onnx_runtime = ZeroShotClassifier.from_bundle(planned(engine), engine="onnxruntime").predict(images)
    for first, second in zip(from_plan, from_onnx_runtime, strict=True):
        found, wanted = ([finding.probability for finding in answer.findings] for answer in (first, second))
        np.testing.assert_allclose(found, wanted, atol=2e-3)


@pytest.mark.parametrize("engine", ENGINES)
def test_cuda_graphs_do_not_change_answers(planned: Any, engine: str, caplog: pytest.LogCaptureFixture) -> None:
    """A size is captured after its second run, in memory that did not move since the first; then it is launched.

    TensorRT-RTX compiles kernels for new sizes beside the first runs unless it is asked to do so before.
    """
    bundle = Bundle(planned(engine))
    golden = Golden.load(bundle.golden_path)
    captured = TensorRTEngine(bundle, engine=engine, eager_kernels=True)
    plain = TensorRTEngine(bundle, engine=engine, cuda_graphs=False, eager_kernels=True)
    for _ in range(4):
        for batch in (1, 3, 8, 1):
            inputs = {"pixel_values": golden["pixel_values"][:batch]}
            wanted, found = plain.run("image_encoder", inputs), captured.run("image_encoder", inputs)
            for name, array in wanted.items():
                np.testing.assert_array_equal(found[name], array)
    assert not caplog.records  # messages about sizes that could not be captured
    captured.close()
    plain.close()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_batch_that_is_too_large_is_refused(planned: Any, engine: str) -> None:
    pixels = np.zeros((33, *Golden.load(Bundle(planned(engine)).golden_path)["pixel_values"].shape[1:]), np.float32)
    with pytest.raises(EngineError, match="--max-batch"):
        TensorRTEngine(Bundle(planned(engine)), engine=engine).run("image_encoder", {"pixel_values": pixels})


@pytest.mark.parametrize("options", [{"strip": True}, {"refit": True}, {"hardware_compatible": "ampere+"}])
@pytest.mark.parametrize("engine", ENGINES)
def test_other_build_options(planned: Any, tmp_path: Path, engine: str, options: dict[str, Any]) -> None:
    folder = bundles.copied(planned(engine), tmp_path / "bundle")
    build_bundle(folder, BuildOptions(engine, **options))
    assert ZeroShotClassifier.from_bundle(folder).predict([read_image(sample_paths()[0])])


@pytest.mark.parametrize("engine", TENSORRT)
def test_a_version_compatible_plan(planned: Any, tmp_path: Path, engine: str) -> None:
    """It runs in the runtime that it contains, which must support the plugin's kernel, too."""
    folder = bundles.copied(planned(engine), tmp_path / "bundle")
    build_bundle(folder, BuildOptions(engine, version_compatible=True))
    assert ZeroShotClassifier.from_bundle(folder).predict([read_image(sample_paths()[0])])


@pytest.mark.parametrize("engine", TENSORRT)
@pytest.mark.skipif(shutil.which("tritonserver") is None, reason="the vendor's Triton server is not on the PATH")
def test_triton_serves_plans(planned: Any, engine: str) -> None:
    from lrclr.triton.client import Client
    from lrclr.triton.server import ServeOptions, TritonServer

    image = read_image(sample_paths()[0])
    with TritonServer(planned(engine), ServeOptions(grpc_port=0, http_port=0, metrics_port=0)) as server:
        (answer,) = Client(server.grpc).predict([image])
    (wanted,) = ZeroShotClassifier.from_bundle(planned(engine)).predict([image])
    assert [region.box for region in answer.regions] == [region.box for region in wanted.regions]
