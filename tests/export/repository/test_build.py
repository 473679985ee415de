"""Plans are built by TensorRT-RTX, which needs no GPU for it, or refused without any change."""

from __future__ import annotations

import signal
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import onnx
import pytest
from onnx import helper

from lrclr import Bundle
from lrclr.auto import open_engine
from lrclr.bundle import GRAPHS
from lrclr.cli import main
from lrclr.engines import EngineOptions, Gpu

# Private: the settings of TensorRT-RTX are not visible in a plan.
from lrclr.engines._plans import plan_entry
from lrclr.errors import BundleError, EngineError, ExportError, GateError, LrclrError, UsageError
from lrclr_export import BuildOptions, best_engine, build_bundle
from lrclr_export.plans import Plan, plan_from_onnx
from lrclr_export.plans._build import _config
from lrclr_export.profiles import profiles, profiles_of_graph
from tests import bundles

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lrclr.checkpoints import Checkpoint

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is for x86-64 Linux")

AHEAD = ("--engine", "tensorrt-rtx", "--compute-capability", "8.6")
AMPERE = BuildOptions("tensorrt-rtx", ("8.6",))
OTHER_GPU = Gpu("Some GPU", "7.5", "13.0")


@pytest.fixture
def bundle(fp16_bundle: Path, tmp_path: Path) -> Path:
    """A bundle that the test may change."""
    return bundles.copied(fp16_bundle, tmp_path / "bundle")


@pytest.fixture(scope="session")
def built(fp16_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A bundle with plans for two kinds of GPU, and the output of the command."""
    folder = bundles.copied(fp16_bundle, tmp_path_factory.mktemp("built") / "bundle")
    done = bundles.call("build", folder, *AHEAD, "--compute-capability", "8.9")
    assert done.returncode == 0, done.stderr
    return folder, done


def test_plans_go_into_the_bundle(fp16_bundle: Path, built: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, done = built
    after = Bundle(folder)
    (entry,) = after.manifest.plans
    assert (entry["engine"], entry["compute_capabilities"]) == ("tensorrt-rtx", ["8.6", "8.9"])
    # RTX has no plugins. The manifest must say that it used the definition of the node.
    assert entry["region_selection"] == "function body"
    assert entry["graphs"]["image_encoder"]["precision_histogram"]["RegionSelectQK.TOPK"] == {"float32": 1}
    for graph in GRAPHS:
        assert after.plan_path(graph, entry).stat().st_size > 10_000
        assert entry["graphs"][graph]["precision_histogram"]["MATRIX_MULTIPLY"].keys() == {"float16"}
        assert set(entry["graphs"][graph]["precision_histogram"]["SOFTMAX"]) == {"float32"}
    assert after.manifest.engine == {"name": "tensorrt-rtx", "why": "asked for"}
    before, now = bundles.digests(fp16_bundle), bundles.digests(folder)
    assert {name for name in before if now[name] != before[name]} == {"manifest.json", "README.md"}
    # It must not be mistaken for a plan that has run.
    assert entry["gates_ran_on"] is None
    assert "the gates did not run them" in done.stderr
    assert "FAILED" not in done.stdout
    assert all(gate["passed"] for gate in entry["gates"])
    for graph in GRAPHS:
        described = entry["graphs"][graph]
        assert described["layer_types_from"] == "builder's log"
        assert described["layers_write"]["float16"] > 0
        assert len(described["built"]["profiles"]) == len(described["profiles"])
        for profile in described["built"]["profiles"]:
            assert any(str(profile["launches"]) in line.split() for line in done.stdout.splitlines() if graph in line)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
@pytest.mark.parametrize("capability", ["12.0", "8.0"])
def test_inputs_and_outputs_are_the_graphs(request: pytest.FixtureRequest, precision: str, capability: str) -> None:
    opened = Bundle(request.getfixturevalue(f"{precision}_bundle"))
    names = {"FLOAT": "float32", "INT64": "int64"}
    for graph, described in opened.manifest.graphs.items():
        plan = _plan(opened, graph, BuildOptions("tensorrt-rtx", (capability,)))
        for kind in ("inputs", "outputs"):
            wanted = {
                name: {
                    "type": names[tensor["type"]],
                    "shape": [size if isinstance(size, int) else -1 for size in tensor["shape"]],
                }
                for name, tensor in described[kind].items()
            }
            assert plan.signature[kind] == wanted
        assert len(plan.profiles) == (1 if graph == "text_encoder" else 2)
        heavy = {"fp16": "float16", "fp32": "float32"}[precision]
        assert plan.precision_histogram["MATRIX_MULTIPLY"].keys() == {heavy}


def test_a_gpu_without_what_a_graph_needs(bundle: Path) -> None:
    """TensorRT-RTX multiplies in float32, as region selection does, only from compute capability 8.0 on."""
    _unchanged(bundle, ExportError, "node_of_chain_0", BuildOptions("tensorrt-rtx", ("7.5",)))


def test_how_the_builder_is_told_to_build() -> None:
    import tensorrt_rtx

    builder = tensorrt_rtx.Builder(tensorrt_rtx.Logger(tensorrt_rtx.Logger.ERROR))
    flags, capabilities = tensorrt_rtx.BuilderFlag, tensorrt_rtx.ComputeCapability
    here = _config(tensorrt_rtx, builder, BuildOptions("tensorrt-rtx"))
    ahead = _config(tensorrt_rtx, builder, BuildOptions("tensorrt-rtx", ("8.6", "8.9")))
    # One GPU, which the manifest names, and not every GPU that the library supports.
    assert [here.get_compute_capability(place) for place in range(here.num_compute_capabilities)] == [
        capabilities.CURRENT
    ]
    assert [ahead.get_compute_capability(place) for place in range(2)] == [capabilities.SM86, capabilities.SM89]
    for config in (here, ahead):
        # Memory of CUDA graphs is not allocated by the plan.
        assert config.get_flag(flags.REQUIRE_USER_ALLOCATION)
        assert not config.get_flag(flags.TF32)


@pytest.mark.slow
def test_a_clip_of_full_size(base_checkpoint: Checkpoint, tmp_path: Path) -> None:
    """ViT-B/32 in half precision, each graph for several GPUs."""
    from lrclr_export.onnx.graphs import graph_specs
    from lrclr_export.onnx.onnx_graph import typed_onnx_from_module
    from lrclr_export.onnx.precision import half_precision

    sizes = profiles(base_checkpoint.findings, base_checkpoint.tokenizer, max_batch=32)
    for spec in graph_specs(half_precision(base_checkpoint.model)):
        graph = typed_onnx_from_module(spec, opset=20)
        graph.save(tmp_path / "model.onnx")
        weights = sum((tmp_path / name).stat().st_size for name in ("model.onnx", "model.onnx.data"))
        shapes = {
            str(value.name): [dim if isinstance(dim, int) else str(dim) for dim in value.shape or []]
            for value in graph.model.graph.inputs
        }
        plan = plan_from_onnx(
            tmp_path / "model.onnx",
            BuildOptions("tensorrt-rtx", ("8.0", "8.9", "12.0")),
            name=spec.name,
            profiles=profiles_of_graph(shapes, sizes),
        )
        assert plan.precision_histogram["MATRIX_MULTIPLY"].keys() == {"float16"}
        record = plan.record.to_dict()
        assert record["layers_write"]["float16"] > record["layers_write"]["float32"]
        if spec.name == "text_encoder":
            # Attention maps are not among its outputs.
            assert [profile["fused_attention"] for profile in record["profiles"]] == [12]
        # Weights are in the plan, in half precision.
        assert 0.9 * weights < len(plan.data) < 2.2 * weights + 2**24


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        pytest.param(
            lambda path: path.write_bytes(path.read_bytes()[:-5000]), "does not support fusion_head", id="cut off"
        ),
        pytest.param(
            lambda path: path.write_bytes(b"\x08\x0a"),
            "does not support fusion_head",
            id="empty",
            marks=pytest.mark.slow,
        ),
        pytest.param(lambda path: _with_node(path, "Abacus", ""), "Abacus", id="an unknown operator"),
        pytest.param(
            lambda path: _with_node(path, "RegionSelect", "abacus"),
            "RegionSelect",
            id="a node of another domain",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_graph_that_cannot_be_built(bundle: Path, spoil: Callable[[Path], Any], said: str) -> None:
    spoil(bundle / "fusion_head" / "1" / "model.onnx")
    bundles.signed(bundle)
    _unchanged(bundle, ExportError, said, AMPERE)


def test_an_image_encoder_that_is_not_an_onnx_graph(bundle: Path) -> None:
    graph = bundle / "image_encoder" / "1" / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:-5000])
    bundles.signed(bundle)
    _unchanged(bundle, ExportError, "does not support image_encoder: it is not an ONNX graph", AMPERE)


def test_sizes_that_a_graph_cannot_have(bundle: Path) -> None:
    sizes = [{**profile, "tokens": [2, 16, 4096]} for profile in Bundle(bundle).manifest.profiles]
    bundles.signed(bundle, profiles=sizes)
    _unchanged(bundle, ExportError, "cannot run at the sizes of its profile", AMPERE)


@pytest.mark.parametrize("sizes", [[8, 4, 32], [0, 1, 32], [1, 64, 32]])
def test_sizes_in_the_wrong_order(bundle: Path, sizes: list[int]) -> None:
    bundles.signed(bundle, profiles=[{**Bundle(bundle).manifest.profiles[-1], "batch": sizes}])
    _unchanged(bundle, ExportError, "cannot run at the sizes of its profile", AMPERE)


@pytest.mark.slow
def test_single_precision_is_not_taken_for_half(fp32_bundle: Path, tmp_path: Path) -> None:
    """FP16 is requested, but FP32 is built. Other tools do this without a message."""
    folder = bundles.signed(bundles.copied(fp32_bundle, tmp_path / "bundle"), precision="fp16")
    _unchanged(folder, GateError, "products not in fp16", AMPERE)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--engine", "tensorrt-rtx"), 2, "--compute-capability"),
        (("--engine", "tensorrt-rtx", "--compute-capability", "9.0"), 2, "8.6"),
        (("--engine", "tensorrt-rtx", "--compute-capability", "abacus"), 2, "Write it like 8.6"),
        (("--engine", "tensorrt", "--compute-capability", "8.6"), 2, "only TensorRT-RTX"),
        (("--engine", "abacus"), 2, "abacus"),
        ((*AHEAD, "--builder-level", "6"), 2, "0 to 5"),
        ((*AHEAD, "--timing-cache", "cache"), 2, "no timing cache"),
        ((*AHEAD, "--version-compatible"), 2, "Omit --version-compatible"),
        ((*AHEAD, "--refit"), 2, "needs a GPU"),
        ((*AHEAD, "--strip"), 2, "needs a GPU"),
        ((*AHEAD, "--workspace", "0"), 2, "1 MiB"),
        ((*AHEAD, "--hardware-compatible", "abacus"), 2, "ampere+"),
        (("--engine", "onnxruntime", "--strip"), 2, "no plans are built"),
        (("--engine", "onnxruntime", "--compute-capability", "8.6"), 2, "no plans are built"),
    ],
)
def test_what_cannot_be_asked_for(
    bundle: Path, arguments: tuple[str, ...], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = bundles.digests(bundle)
    assert main(["build", str(bundle), *arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err
    assert len([line for line in captured.err.splitlines() if line.startswith("error: ")]) == 1
    assert bundles.digests(bundle) == before


def test_a_full_disk(bundle: Path) -> None:
    before = bundles.digests(bundle)
    with bundles.no_large_files(1_000_000):
        done = bundles.call("build", bundle, *AHEAD)
    assert done.returncode == 1
    assert "could not be written" in done.stderr
    assert bundles.digests(bundle) == before
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_build(bundle: Path, how: signal.Signals, code: int) -> None:
    before = bundles.digests(bundle)
    command = [*bundles.LRCLR, "build", str(bundle), *AHEAD]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        assert "image_encoder" in process.stderr.readline()
        process.send_signal(how)
        assert process.wait() == code
    assert bundles.digests(bundle) == before
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]


@pytest.mark.parametrize(
    "options", [{"workspace_mib": 64, "builder_level": 0}, {"builder_level": 5, "hardware_compatible": "ampere+"}]
)
def test_options_that_the_library_takes(fp16_bundle: Path, options: dict[str, Any]) -> None:
    chosen = replace(AMPERE, **options)
    assert _plan(Bundle(fp16_bundle), "text_encoder", chosen).data
    assert options.items() <= chosen.to_dict().items()


def test_progress_is_told(fp16_bundle: Path) -> None:
    told: list[tuple[str, int, int]] = []
    opened = Bundle(fp16_bundle)
    sizes = profiles_of_graph({"input_ids": ["prompts", "tokens"]}, opened.manifest.profiles)
    plan_from_onnx(
        opened.graph_path("text_encoder"),
        AMPERE,
        name="text_encoder",
        profiles=sizes,
        on_progress=lambda *step: told.append(step),
    )
    assert told[0][1] == 0
    assert any(done == steps > 0 for _, done, steps in told)


def test_nobody_runs_plans_that_do_not_suit(built: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    opened = Bundle(built[0])
    (entry,) = opened.manifest.plans
    version = entry["library"]
    assert plan_entry(opened, "tensorrt-rtx", version, Gpu("A GPU", "8.9", "13.0")) == entry
    rebuild = f"lrclr build {opened.path} --engine tensorrt-rtx"
    for error, library, gpu, sides in (
        (BundleError, "1.0.0.1", OTHER_GPU, (version, "1.0.0.1", rebuild)),
        (BundleError, version, OTHER_GPU, ("8.6, 8.9", "Some GPU, compute capability 7.5", rebuild)),
        (EngineError, version, None, ("no", "--engine onnxruntime")),
    ):
        with pytest.raises(error) as caught:
            plan_entry(opened, "tensorrt-rtx", library, gpu)
        assert all(side in str(caught.value) for side in sides)
    with pytest.raises(BundleError, match="has no plans for tensorrt"):
        plan_entry(opened, "tensorrt", "11.4", OTHER_GPU)


@pytest.mark.parametrize(
    ("options", "version", "capability", "runs"),
    [
        ({"version_compatible": True}, "99.0", "8.6", True),
        ({"version_compatible": True}, "0.9", "8.6", False),
        ({"hardware_compatible": "ampere+"}, "", "12.1", True),
        ({"hardware_compatible": "ampere+"}, "", "7.5", False),
    ],
)
def test_plans_that_may_move(
    bundle: Path,
    built: tuple[Path, subprocess.CompletedProcess[str]],
    options: dict[str, Any],
    version: str,
    capability: str,
    *,
    runs: bool,
) -> None:
    (entry,) = Bundle(built[0]).manifest.plans
    moved = {**entry, "options": {**entry["options"], **options}}
    opened = Bundle(bundles.signed(bundle, plans=[moved]))
    gpu = Gpu("A GPU", capability, "13.0")
    if runs:
        assert plan_entry(opened, "tensorrt-rtx", version or entry["library"], gpu) == moved
    else:
        with pytest.raises(BundleError):
            plan_entry(opened, "tensorrt-rtx", version or entry["library"], gpu)


def test_the_engine_is_the_one_that_was_asked_for(built: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    """It is not replaced by another engine on this machine, which has no GPU."""
    opened = Bundle(built[0])
    with pytest.raises(EngineError, match="needs a GPU"):
        open_engine(opened)
    assert open_engine(opened, EngineOptions("onnxruntime")).name.startswith("onnxruntime")
    with pytest.raises(UsageError, match="abacus"):
        open_engine(opened, EngineOptions("abacus"))


def test_a_changed_plan_is_seen(built: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    damaged = bundles.copied(built[0], tmp_path / "bundle")
    bundles.flip(damaged / "text_encoder" / "1" / "model.rtx.plan")
    with pytest.raises(BundleError, match=r"model\.rtx\.plan"):
        Bundle(damaged)


def test_back_to_onnx_runtime(built: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    folder = bundles.copied(built[0], tmp_path / "bundle")
    assert bundles.call("build", folder, "--engine", "onnxruntime").returncode == 0
    manifest = Bundle(folder).manifest
    assert manifest.engine["name"] == "onnxruntime"
    assert len(manifest.plans) == 1


@pytest.mark.slow
def test_export_builds_too(checkpoint_folder: Path, tmp_path: Path) -> None:
    done = bundles.run(["export", checkpoint_folder, "-o", tmp_path / "bundle", *AHEAD])
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("engine tensorrt-rtx (asked for), fp16\n")
    assert Bundle(tmp_path / "bundle").manifest.engine["name"] == "tensorrt-rtx"


def test_the_best_engine_here_is_said(tmp_path: Path) -> None:
    done = bundles.call("export", tmp_path / "nothing", "-o", tmp_path / "bundle")
    engine, why = best_engine()
    assert engine == "onnxruntime"
    assert why in {
        "this machine has no GPU",
        "the engine tensorrt needs the package 'tensorrt', which is not installed",
    }
    assert done.stderr.startswith(f"engine {engine} ({why}), fp16\n")


def _plan(opened: Bundle, graph: str, options: BuildOptions) -> Plan:
    shapes = {name: tensor["shape"] for name, tensor in opened.manifest.graphs[graph]["inputs"].items()}
    sizes = profiles_of_graph(shapes, opened.manifest.profiles)
    return plan_from_onnx(opened.graph_path(graph), options, name=graph, profiles=sizes)


def _unchanged(folder: Path, error: type[LrclrError], said: str, options: BuildOptions) -> None:
    before = bundles.digests(folder)
    with pytest.raises(error) as caught:
        build_bundle(folder, options)
    assert said in str(caught.value)
    assert bundles.digests(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def _with_node(path: Path, operator: str, domain: str) -> None:
    """A node of an unknown type, before the first output."""
    model = onnx.load(path)
    first = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["before" if name == first else name for name in node.output]
        node.input[:] = ["before" if name == first else name for name in node.input]
    model.graph.node.append(helper.make_node(operator, ["before"], [first], name="stranger", domain=domain))
    if domain:
        model.opset_import.append(helper.make_opsetid(domain, 1))
    onnx.save(model, path)
