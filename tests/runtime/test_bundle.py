"""A bundle that is not what was exported is refused before anything of it is loaded."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
import pytest

from lrclr import Bundle, OnnxRuntimeEngine
from lrclr.bundle import ENTRIES, GRAPHS
from lrclr.engines._placement import require_placed
from lrclr.errors import BundleError, EngineError, UsageError
from lrclr.gates import Golden
from tests import bundles

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def folder(quiet_transformers: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundles.exported(tmp_path_factory.getbasetemp(), "fp32")


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return bundles.copied(folder, tmp_path / "bundle")


def test_a_bundle_holds_what_the_manifest_lists_and_nothing_else(folder: Path) -> None:
    manifest = Bundle(folder).manifest
    assert sorted(entry.name for entry in folder.iterdir()) == sorted(ENTRIES)
    assert bundles.digests(folder).keys() - {"manifest.json"} == manifest.files.keys()
    assert all(gate["passed"] for gate in manifest.gates)


def test_a_changed_byte_in_any_file_is_noticed(folder: Path, tmp_path: Path) -> None:
    for number, name in enumerate(bundles.digests(folder)):
        damaged = bundles.copied(folder, tmp_path / str(number))
        bundles.flip(damaged / name)
        with pytest.raises(BundleError, match="manifest" if name == "manifest.json" else name):
            Bundle(damaged)


def test_a_missing_file_is_named(folder: Path, tmp_path: Path) -> None:
    for number, name in enumerate(bundles.digests(folder)):
        damaged = bundles.copied(folder, tmp_path / str(number))
        (damaged / name).unlink()
        with pytest.raises(BundleError, match=name):
            Bundle(damaged)


@pytest.mark.parametrize(
    "change",
    [{"schema": 99}, {"schema": None}, {"precision": "fp64"}, {"gates": []}, {"max_batch": 10**6}, {"extra": 1}],
    ids=str,
)
def test_a_manifest_that_was_edited_is_refused(change: dict[str, object], copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | change))
    with pytest.raises(BundleError, match="manifest"):
        Bundle(copy)


def rehashed(content: dict[str, object]) -> str:
    """A manifest's text with the hash that belongs to it, as its writer writes it."""
    content.pop("manifest_sha256", None)
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return json.dumps({**content, "manifest_sha256": digest}, indent=2, sort_keys=True) + "\n"


@pytest.mark.parametrize("field", ["gates", "scoring", "files", "tokenizer"])
def test_a_missing_field_is_named(field: str, copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    assert rehashed(dict(manifest)) == (copy / "manifest.json").read_text()
    del manifest[field]
    (copy / "manifest.json").write_text(rehashed(manifest))
    with pytest.raises(BundleError, match=f"its fields differ: {field}"):
        Bundle(copy)


@pytest.mark.parametrize("name", ["image_encoder/1/model.onnx", "tokenizer.json", "golden.npz", "findings.toml"])
def test_a_manifest_that_does_not_list_a_file_it_must_is_refused(name: str, copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    del manifest["files"][name]
    (copy / "manifest.json").write_text(rehashed(manifest))
    with pytest.raises(BundleError, match=f"does not list {name}"):
        Bundle(copy)


def test_every_byte_of_the_manifest_counts(copy: Path) -> None:
    """Line breaks and spaces as well, though they mean nothing."""
    file = copy / "manifest.json"
    whole = file.read_bytes()
    for position in (0, 1, 2, whole.index(b" "), whole.index(b":"), len(whole) // 3, len(whole) - 2, len(whole) - 1):
        for changed in (whole[position] ^ 1, ord("\r"), ord("\t"), 0, 0xFF):
            if changed != whole[position]:
                file.write_bytes(whole[:position] + bytes([changed]) + whole[position + 1 :])
                with pytest.raises(BundleError, match="manifest"):
                    Bundle(copy)
    for text in (whole + b"\n", whole[:-1], b" " + whole, whole.replace(b"\n", b"\r\n")):
        file.write_bytes(text)
        with pytest.raises(BundleError, match="manifest"):
            Bundle(copy)
    file.write_bytes(whole)
    Bundle(copy)


def test_a_preprocessing_that_cannot_be_read_is_said_to_be_so(copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    del manifest["preprocess"]["kind"]
    (copy / "manifest.json").write_text(rehashed(manifest))
    with pytest.raises(BundleError, match="cannot be used"):
        Bundle(copy)


def test_files_beside_the_bundles_own_are_left_alone(copy: Path) -> None:
    """Triton may put a fourth model there, or an engine a plan."""
    (copy / "image_encoder" / "1" / "model.plan").write_bytes(b"plan")
    Bundle(copy)


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"schema": 2}', "[" * 100_000, "\udcff"])
def test_what_is_no_manifest_is_refused(text: str, copy: Path) -> None:
    (copy / "manifest.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(BundleError):
        Bundle(copy)


def test_a_folder_without_a_bundle_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="lrclr export"):
        Bundle(tmp_path)


def test_golden_arrays_come_back_and_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    golden = Golden.load(Bundle(folder).golden_path)
    golden.save(tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == (folder / "golden.npz").read_bytes()
    (tmp_path / "again.npz").write_bytes(b"PK")
    with pytest.raises(BundleError, match="damaged"):
        Golden.load(tmp_path / "again.npz")


def test_a_provider_that_is_absent_is_an_error_and_no_fallback(folder: Path) -> None:
    with pytest.raises(EngineError, match="CUDAExecutionProvider"):
        OnnxRuntimeEngine(Bundle(folder), provider="cuda")
    with pytest.raises(UsageError, match="cpu or cuda"):
        OnnxRuntimeEngine(Bundle(folder), provider="npu")
    with pytest.raises(UsageError, match="thread"):
        OnnxRuntimeEngine(Bundle(folder), threads=0)


@pytest.mark.parametrize("graph", GRAPHS)
def test_inputs_that_do_not_fit_a_graph_are_an_error_that_names_it(graph: str, folder: Path) -> None:
    with pytest.raises(EngineError, match=graph):
        OnnxRuntimeEngine(Bundle(folder)).run(graph, {"pixel_values": np.zeros((1, 3, 5, 5), np.float32)})


def test_a_graph_that_is_no_onnx_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(EngineError, match="image_encoder"):
        OnnxRuntimeEngine({"image_encoder": tmp_path / "model.onnx"}).run("image_encoder", {})


def test_work_on_another_provider_is_named(folder: Path) -> None:
    """A session on the CPU, looked at as if CUDA had been asked for: what a silent fallback looks like."""
    path = Bundle(folder).graph_path("image_encoder")
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    require_placed(session, "CPUExecutionProvider", "image_encoder")
    with pytest.raises(EngineError, match=r"the first is \w+ \((Conv|MatMul|Gemm|FusedConv)\) on CPUExecutionProvider"):
        require_placed(session, "CUDAExecutionProvider", "image_encoder")
