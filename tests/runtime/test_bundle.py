"""A bundle that is not what was exported is refused before anything of it is loaded."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from lrclr import Bundle, OnnxRuntimeEngine
from lrclr.bundle import ENTRIES, GRAPHS
from lrclr.errors import BundleError, EngineError, UsageError
from lrclr.gates import Golden
from tests import bundles

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def folder(quiet_transformers: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundles.exported(tmp_path_factory.getbasetemp(), "fp32")[0]


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
    [{"schema": 2}, {"schema": None}, {"precision": "fp64"}, {"gates": []}, {"max_batch": 10**6}, {"extra": 1}],
    ids=str,
)
def test_a_manifest_that_was_edited_is_refused(change: dict[str, object], copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | change))
    with pytest.raises(BundleError, match="manifest"):
        Bundle(copy)


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"schema": 1}', "[" * 100_000, "\udcff"])
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
