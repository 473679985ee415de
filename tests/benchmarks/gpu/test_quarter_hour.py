"""The measurement kit for a lent GPU: unpacking restores what was packed, and its commands run on the CPU."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from benchmarks.gpu.quarter_hour.cubins import blank_other_architectures, entries
from benchmarks.gpu.quarter_hour.pack import write_parts
from benchmarks.gpu.quarter_hour.record import Record
from benchmarks.gpu.quarter_hour.unpack import unpack
from benchmarks.gpu.quarter_hour.weights import fill_weights, strip_weights
from lrclr.bundle import GRAPHS
from tests.bundles import digests, exported

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

ROOT = Path(__file__).parents[3]


def container(programs: Sequence[tuple[int, int, bytes]]) -> bytes:
    """A container of GPU code in the layout of NVIDIA's compiler: kind, architecture and payload of each entry."""
    body = b""
    for kind, architecture, payload in programs:
        header = 112 if architecture >= 100 else 64
        fields = struct.pack("<HHIQIIHHIIIQQQ", kind, 0x101, header, len(payload), 0, 0, 8, 1, architecture, *[0] * 5)
        body += fields.ljust(header, b"h") + payload
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body


def library(*containers: bytes) -> bytes:
    """A minimal ELF file with a section of GPU code."""
    names = b"\0.nv_fatbin\0.shstrtab\0"
    code = b"".join(containers)
    sections = [(0, 0, 0), (1, 64, len(code)), (12, 64 + len(code), len(names))]
    table = b"".join(
        struct.pack("<IIQQQQIIQQ", name, 1, 0, 0, start, size, 0, 0, 8, 0) for name, start, size in sections
    )
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    where = 64 + len(code) + len(names)
    header += struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 0, where, 0, 64, 0, 0, 64, 3, 2)
    return header + code + names + table


def test_only_programs_of_other_architectures_are_blanked() -> None:
    before = library(
        container([(2, 80, b"a" * 40), (2, 90, b"b" * 24), (2, 120, b"c" * 16)]),
        container([(2, 75, b"d" * 8), (1, 75, b"e" * 8)]),
        container([(2, 89, b"f" * 8)]),
    )
    after = bytearray(before)
    done = blank_other_architectures(after, 90)
    assert done.kept == {90: 24, 75: 8}
    assert done.blanked == {80: 40, 120: 16, 75: 8, 89: 8}
    assert (done.containers, done.without) == (3, 1)
    wanted = bytearray(before)
    for letter in b"acdf":
        wanted = wanted.replace(bytes([letter]) * 8, bytes(8))
    assert after == wanted
    assert list(entries(after)) == list(entries(before))


@pytest.mark.parametrize(
    ("damaged", "why"),
    [
        (b"MZ" + library(container([])), "ELF"),
        (library(container([(2, 80, b"a" * 8)])), "architecture 90"),
        (library(container([(2, 90, b"a" * 8)]), b"x" * 16), "container"),
        (library(container([(7, 90, b"a" * 8)])), "entry"),
        (library().replace(b".nv_fatbin", b".nv_nothin"), "section"),
    ],
)
def test_a_library_of_another_layout_is_refused(damaged: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        blank_other_architectures(bytearray(damaged), 90)


def write_network(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Write a graph with one product and one sum. Returns its large and its small weights."""
    random = np.random.default_rng(0)
    large = random.normal(0.5, 0.02, (300, 200)).astype(np.float32)
    small = random.normal(size=200).astype(np.float32)
    node = onnx.helper.make_node
    graph = onnx.helper.make_graph(
        [node("MatMul", ["x", "large"], ["product"]), node("Add", ["product", "small"], ["y"])],
        "graph",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 300])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 200])],
        [numpy_helper.from_array(large, "large"), numpy_helper.from_array(small, "small")],
    )
    opset = [onnx.helper.make_opsetid("", 20)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    return large, small


def test_omitted_weights_are_replaced_by_weights_of_the_same_scale(tmp_path: Path) -> None:
    large, small = write_network(tmp_path / "whole.onnx")
    folder = tmp_path / "stripped"
    strip_weights(tmp_path / "whole.onnx", folder)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 4000
    assert fill_weights(folder) >= large.nbytes
    first = (folder / "weights.bin").read_bytes()
    fill_weights(folder)
    assert (folder / "weights.bin").read_bytes() == first
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    filled = session.run(None, {"x": np.eye(300, dtype=np.float32)})[0] - small
    assert filled.mean() == pytest.approx(large.mean(), abs=2e-3)
    assert filled.std() == pytest.approx(large.std(), rel=0.02)
    assert not np.allclose(filled, large, atol=1e-3)


def test_a_record_keeps_measurements_before_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "results" / "record.json"
    record = Record(path, {"device": "cpu"})
    assert record.measure("first", lambda: {"ms": 1.5}) == {"ms": 1.5}
    assert record.measure("second", lambda: 1 / 0) is None
    continued = Record(path)
    continued.fail("third", "left out")
    assert Record(path).failed == ["second", "third"]
    content = json.loads(path.read_text())
    assert content["device"] == "cpu"
    assert content["measurements"][0]["result"] == {"ms": 1.5}
    assert content["measurements"][1]["error"] == "ZeroDivisionError: division by zero"


@pytest.fixture(scope="module")
def unpacked_kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that a GPU machine has after unpacking."""
    base = tmp_path_factory.getbasetemp()
    folder = tmp_path_factory.mktemp("ready")
    for precision in ("fp32", "fp16"):
        bundle = exported(base, precision)
        shutil.copytree(bundle, folder / "bundles" / f"default-{precision}")
        for graph in GRAPHS:
            network = folder / "networks" / f"tiny-{precision}" / graph
            strip_weights(bundle / graph / "1" / "model.onnx", network)
            fill_weights(network)
    return folder


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    """A folder with the structure of the kit, packed into several parts."""
    source = tmp_path / "source"
    (source / "bundles" / "default-fp32").mkdir(parents=True)
    # Random bytes cannot be compressed.
    (source / "bundles" / "default-fp32" / "model.onnx").write_bytes(np.random.default_rng(0).bytes(200_000))
    write_network(tmp_path / "whole.onnx")
    strip_weights(tmp_path / "whole.onnx", source / "networks" / "tiny-fp32" / "image_encoder")
    return write_parts(source, tmp_path / "parts", part_bytes=80_000, preset=0)


def test_unpacking_restores_the_packed_files(parts: list[Path], tmp_path: Path) -> None:
    assert len(parts) > 2
    assert all(sum(file.stat().st_size for file in part.iterdir()) <= 80_000 for part in parts)
    unpack(parts[::-1], tmp_path / "ready")
    unpacked = digests(tmp_path / "ready")
    weights = [name for name in unpacked if name.endswith("weights.bin")]
    assert len(weights) == 1
    assert digests(tmp_path / "source") == {name: digest for name, digest in unpacked.items() if name not in weights}


def test_a_missing_or_damaged_part_is_refused(parts: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"of part {parts[-1].name} is not in the given folders"):
        unpack(parts[:-1], tmp_path / "ready")
    shutil.copytree(parts[0], tmp_path / "damaged")
    file = tmp_path / "damaged" / "archive.a"
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    with pytest.raises(ValueError, match="of part a is damaged"):
        unpack([tmp_path / "damaged", *parts[1:]], tmp_path / "ready")
    assert not (tmp_path / "ready").exists()


@pytest.mark.slow
def test_the_command_for_onnx_runtime_runs_on_the_cpu(unpacked_kit: Path, tmp_path: Path) -> None:
    answer = _command(
        *("onnxruntime_cuda", "-o", str(tmp_path), "--ready", str(unpacked_kit), "--device", "cpu"),
        *("--network", "tiny", "--batches", "1", "2", "--seconds", "0.01"),
        *("--only", "machine", "placement", "gates", "fp16"),
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    found = _results(tmp_path / "onnxruntime_cuda.json")
    assert found["gates: fp32, TF32 off, CUDA graphs off"]["refused"] == []
    assert found["placement: tiny, fp16, image_encoder"]["operators_elsewhere"] == {}
    timed = found["device memory: fp16, TF32 off, CUDA graphs off, batch 2"]
    assert timed["runs"] >= 40
    assert 0 < timed["p50_ms"] <= timed["p99_ms"]
    assert found["answers against the CPU's: fp16"]["same regions"] == 1.0


def test_a_failed_measurement_keeps_the_others_and_gives_an_exit_code(unpacked_kit: Path, tmp_path: Path) -> None:
    broken = tmp_path / "ready"
    shutil.copytree(unpacked_kit, broken)
    (broken / "networks" / "tiny-fp16" / "image_encoder" / "model.onnx").write_bytes(b"no graph")
    answer = _command(
        *("onnxruntime_cuda", "-o", str(tmp_path), "--ready", str(broken), "--device", "cpu"),
        *("--network", "tiny", "--batches", "1", "--seconds", "0.01", "--only", "placement", "fp16"),
    )
    assert answer.returncode == 1
    content = json.loads((tmp_path / "onnxruntime_cuda.json").read_text())["measurements"]
    failed = [measurement["name"] for measurement in content if "error" in measurement]
    assert "placement: tiny, fp16, image_encoder" in failed
    assert "placement: tiny, fp32, image_encoder" not in failed
    assert "text encoder: fp16, 32 prompts" not in failed


def _command(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"benchmarks.gpu.quarter_hour.{name}", *arguments],
        cwd=ROOT,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
    )


def _results(path: Path) -> dict[str, Any]:
    return {measurement["name"]: measurement["result"] for measurement in json.loads(path.read_text())["measurements"]}


@pytest.mark.parametrize("command", ["kernel", pytest.param("encoder", marks=pytest.mark.slow)])
def test_torch_commands_complete_a_dry_run(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "result.json"
    monkeypatch.setattr(sys, "argv", [command, "--device", "cpu", "-o", str(output)])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"benchmarks.gpu.quarter_hour.{command}").main()
    assert ended.value.code == 0
    found = _results(output)
    if command == "kernel":
        assert [result["right"] for name, result in found.items() if name.startswith("correctness")] == [True, True]
        assert {result["kernel"] for name, result in found.items() if name.startswith("time")} == {
            "torch eager, from maps",
            "torch eager, from queries and keys",
        }
    else:
        variants = [result["variant"] for name, result in found.items() if name.startswith("encoder")]
        assert variants == ["maps", "maps alone", "kernel", "no regions"]
        assert found["agreement: ViT-B/32 @64, batch 1"]["cosine_of_maps_and_qk"] > 0.9999
