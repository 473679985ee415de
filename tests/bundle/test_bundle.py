"""A bundle that differs from the exported one is refused before anything is loaded from it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrclr import Bundle, OnnxRuntimeEngine
from lrclr.bundle import GRAPHS, SERVER_MODEL, Golden, bundle_entries

# Private: the list of checked entries has no public name.
from lrclr.bundle._content import _listed
from lrclr.contract import ModelNames
from lrclr.engines._placement import require_placed
from lrclr.errors import BundleError, EngineError, UsageError
from tests import bundles


@pytest.fixture(scope="session")
def folder(quiet_transformers: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundles.exported(tmp_path_factory.getbasetemp(), "fp32")


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return bundles.copied(folder, tmp_path / "bundle")


def test_a_bundle_has_exactly_the_files_of_its_manifest(folder: Path) -> None:
    manifest = Bundle(folder).manifest
    # The bundle of a checkpoint without a model card has no card.
    assert {entry.name for entry in folder.iterdir()} | {"card.toml"} == set(bundle_entries(folder))
    assert bundles.digests(folder).keys() - {"manifest.json"} == manifest.files.keys()
    assert all(gate["passed"] for gate in manifest.gates)


def test_a_changed_byte_in_any_file_is_refused(folder: Path, tmp_path: Path) -> None:
    for number, name in enumerate(bundles.digests(folder)):
        damaged = bundles.copied(folder, tmp_path / str(number))
        bundles.flip(damaged / name)
        with pytest.raises(BundleError, match="manifest" if name == "manifest.json" else name):
            Bundle(damaged)


def test_a_file_that_changed_is_refused_after_the_block_that_loads_it(copy: Path) -> None:
    with Bundle.checking(copy) as bundle:
        engine = OnnxRuntimeEngine(bundle)
        engine.preload()
    golden = Golden.load(bundle.golden_path)
    engine.run("image_encoder", {"pixel_values": golden["pixel_values"]})
    graph_file = Bundle(copy).graph_path("image_encoder")
    bundles.flip(graph_file)
    entered = []
    with pytest.raises(BundleError, match=r"image_encoder/1/model\.onnx was changed"), Bundle.checking(copy):
        entered.append(1)
    with pytest.raises(BundleError, match=r"image_encoder/1/model\.onnx was changed"), Bundle.checking(copy):
        raise EngineError("the graph cannot be loaded")
    assert entered
    graph_file.unlink()
    with pytest.raises(BundleError, match="image_encoder"), Bundle.checking(copy):
        pytest.fail("the block of a bundle without a file ran")


def test_run_raises_the_error_of_a_graph_that_was_loaded_ahead(copy: Path) -> None:
    path = Bundle(copy).graph_path("image_encoder")
    path.write_bytes(b"not a graph")
    engine = OnnxRuntimeEngine({"image_encoder": path})
    engine.preload()
    with pytest.raises(EngineError, match="could not load image_encoder"):
        engine.run("image_encoder", {"pixel_values": np.zeros((1, 3, 112, 112), np.float32)})


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
    """The text of a manifest with the correct hash, as the writer writes it."""
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
def test_a_manifest_must_list_the_required_files(name: str, copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    del manifest["files"][name]
    (copy / "manifest.json").write_text(rehashed(manifest))
    with pytest.raises(BundleError, match=f"does not list {name}"):
        Bundle(copy)


def test_any_changed_byte_of_the_manifest_is_refused(copy: Path) -> None:
    """Changed line breaks and spaces too, although they do not change the meaning."""
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


def test_an_invalid_preprocessing_is_named(copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    del manifest["preprocess"]["kind"]
    (copy / "manifest.json").write_text(rehashed(manifest))
    with pytest.raises(BundleError, match="cannot be used"):
        Bundle(copy)


@pytest.mark.parametrize(
    "name",
    [
        "lrclr/1/__init__.py",
        "image_encoder/1/__pycache__/model.cpython-311.pyc",
        "lrclr/1/lrclr.py",
        "lrclr/2/model.py",
        "lrclr/2/",
        "image_encoder/1/model.py",
        "image_encoder/1/model.plan",
        "image_encoder/warmup/more",
        "fourth_model/config.pbtxt",
        "NOTES.md",
        ".hidden",
        "line\nbreak",
    ],
)
def test_an_unlisted_file_or_folder_is_refused(name: str, copy: Path) -> None:
    unlisted = copy / name
    unlisted.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith("/"):
        unlisted.mkdir()
    else:
        unlisted.write_bytes(b"")
    with pytest.raises(BundleError, match="does not list") as caught:
        Bundle(copy)
    assert ascii(name.partition("/")[0])[1:-1] in str(caught.value)
    assert "Delete these files" in str(caught.value)


def test_lost_and_found_is_allowed(copy: Path) -> None:
    (copy / "lost+found").mkdir(mode=0o700)
    Bundle(copy)
    (copy / "lrclr" / "lost+found").mkdir()
    with pytest.raises(BundleError, match=r"lrclr/lost\+found/"):
        Bundle(copy)


@pytest.mark.parametrize("name", ["golden.npz", "lrclr/1/model.py", "manifest.json", "image_encoder/1", "lrclr"])
def test_a_symbolic_link_in_a_bundle_is_refused(name: str, copy: Path, tmp_path: Path) -> None:
    (copy / name).rename(tmp_path / "elsewhere")
    (copy / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match=f"{name} is a symbolic link"):
        Bundle(copy)
    Bundle(bundles.copied(copy, tmp_path / "whole"))  # cp follows links, as the error advises
    (tmp_path / "link").symlink_to(tmp_path / "whole")
    Bundle(tmp_path / "link")  # the folder that the user names may be a link


INVALID_PATHS = [
    "../golden.npz",
    "/etc/passwd",
    "lrclr/1/../1/model.py",
    "./golden.npz",
    "lrclr//config.pbtxt",
    "lrclr\\config.pbtxt",
    "GOLDEN.npz",
    "image_encoder/1/Model.onnx",
    "image_encoder/1/model.py",
    "image_encoder/1/libcustom.so",
    "lrclr/1/__init__.py",
    "lrclr/1/model.py\n",
    "golden.npz\0",
    "manifest.json",
    "",
]


def manifest_that_lists(folder: Path, name: str) -> str:
    """The text of the folder's manifest with one more listed file."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = manifest["files"]["golden.npz"]
    return rehashed(manifest)


@pytest.mark.parametrize("name", INVALID_PATHS)
def test_an_impossible_path_is_refused_even_if_listed(name: str, copy: Path) -> None:
    (copy / "manifest.json").write_text(manifest_that_lists(copy, name))
    with pytest.raises(BundleError, match="cannot be a file of a bundle"):
        Bundle(copy)


@given(
    st.text(max_size=20) | st.from_regex(r"(image_encoder|lrclr|\.\.|)/(1|warmup)/[\w./\\-]{1,8}", fullmatch=True),
    st.sampled_from(["", "a-", "VERSION_", "GRAPH"]),
)
def test_listed_paths_stay_inside_and_are_not_code(name: str, prefix: str) -> None:
    found = _listed(ModelNames(prefix)).fullmatch(prefix + name)
    name = prefix + name
    assert found is None or (
        Path("/b", name).resolve() == Path("/b", name)
        and (name == f"{prefix}lrclr/1/model.py" or Path(name).suffix not in {".py", ".pyc", ".so"})
    )


def test_a_changed_server_model_is_refused_even_if_the_manifest_lists_it(copy: Path) -> None:
    bundles.signed(copy)
    Bundle(copy)
    (copy / "lrclr" / "1" / "model.py").write_text(SERVER_MODEL + "import os\n")
    with pytest.raises(BundleError, match=r"Triton runs lrclr/1/model\.py as code"):
        Bundle(bundles.signed(copy))


@pytest.mark.parametrize("entry", [None, {}, [], {"sha256": 1, "bytes": 1}, {"sha256": "a", "bytes": "b"}], ids=str)
def test_an_entry_without_hash_or_size_is_refused(entry: object, copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["files"]["golden.npz"] = entry
    (copy / "manifest.json").write_text(rehashed(manifest))
    with pytest.raises(BundleError, match=r"the bundle's manifest is damaged: .* at \$\.files"):
        Bundle(copy)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("tokenizer",), {}),
        (("tokenizer", "context_length"), "77"),
        (("profiles",), []),
        (("profiles", 0, "batch"), [1]),
        (("profiles", 0, "batch", 0), "one"),
        (("graphs", "image_encoder"), None),
        (("graphs", "image_encoder", "inputs", "pixel_values", "shape"), 3),
        (("engine", "name"), None),
        (("precision",), "Jane Doe"),
        (("max_batch",), 1.5),
        (("plans",), {}),
        (("plans", 0), "Jane Doe"),
        (("gates", 0), 1),
        (("model",), []),
        (("made_with", "lrclr"), 1),
    ],
    ids=str,
)
def test_a_field_of_a_wrong_type_is_named_without_its_value(
    place: tuple[str | int, ...], value: object, copy: Path
) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["plans"] = [{}]
    target = manifest
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = value
    (copy / "manifest.json").write_text(rehashed(manifest))
    with pytest.raises(BundleError, match=rf"damaged: .* at \$\.{place[0]}") as caught:
        Bundle(copy)
    assert "Jane" not in str(caught.value)


def test_an_unknown_nested_field_is_kept(copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["engine"]["extra"] = 1
    (copy / "manifest.json").write_text(rehashed(manifest))
    assert json.loads(Bundle(copy).manifest.to_json()) == json.loads((copy / "manifest.json").read_text())


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"schema": 2}', "[" * 100_000, "\udcff"])
def test_a_text_that_is_not_a_manifest_is_refused(text: str, copy: Path) -> None:
    (copy / "manifest.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(BundleError):
        Bundle(copy)


def test_the_error_for_a_folder_without_a_bundle_names_the_export(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="lrclr export"):
        Bundle(tmp_path)


def test_golden_arrays_survive_saving_and_loading(folder: Path, tmp_path: Path) -> None:
    golden = Golden.load(Bundle(folder).golden_path)
    golden.save(tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == (folder / "golden.npz").read_bytes()
    (tmp_path / "again.npz").write_bytes(b"PK")
    with pytest.raises(BundleError, match="damaged"):
        Golden.load(tmp_path / "again.npz")


def test_a_missing_provider_is_an_error(folder: Path) -> None:
    with pytest.raises(EngineError, match="CUDAExecutionProvider"):
        OnnxRuntimeEngine(Bundle(folder), provider="cuda")
    with pytest.raises(UsageError, match="cpu or cuda"):
        OnnxRuntimeEngine(Bundle(folder), provider="npu")
    with pytest.raises(UsageError, match="thread"):
        OnnxRuntimeEngine(Bundle(folder), threads=0)


@pytest.mark.parametrize("graph", GRAPHS)
def test_the_error_for_wrong_inputs_names_the_graph(graph: str, folder: Path) -> None:
    with pytest.raises(EngineError, match=graph):
        OnnxRuntimeEngine(Bundle(folder)).run(graph, {"pixel_values": np.zeros((1, 3, 5, 5), np.float32)})


def test_the_error_for_an_invalid_graph_names_it(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(EngineError, match="image_encoder"):
        OnnxRuntimeEngine({"image_encoder": tmp_path / "model.onnx"}).run("image_encoder", {})


def test_nodes_on_another_provider_are_named(folder: Path) -> None:
    """A CPU session is checked as if CUDA had been requested. A silent fallback looks like this."""
    path = Bundle(folder).graph_path("image_encoder")
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    require_placed(session, "CPUExecutionProvider", "image_encoder")
    with pytest.raises(EngineError, match=r"the first is \w+ \((Conv|MatMul|Gemm|FusedConv)\) on CPUExecutionProvider"):
        require_placed(session, "CUDAExecutionProvider", "image_encoder")


@pytest.mark.parametrize("prefix", ["1st", "_a", "a/b", "a.b", "../", "a b", "ä", "x" * 41, "a\n", None, 3])
def test_an_invalid_prefix_is_refused(prefix: object, copy: Path) -> None:
    with pytest.raises(UsageError, match="names cannot begin with"):
        ModelNames(prefix)  # type: ignore[arg-type]
    with pytest.raises(BundleError, match="names of models cannot be used"):
        Bundle(bundles.signed(copy, triton={"prefix": prefix, "version": 1}))


@pytest.mark.parametrize(
    "triton",
    [
        {"prefix": "", "version": -1},
        {"prefix": "", "more": 1},
        {"prefix": "", "version": 0},
        {"prefix": "", "version": True},
    ],
)
def test_invalid_model_names_are_refused(triton: dict[str, object], copy: Path) -> None:
    with pytest.raises(BundleError, match="names of models cannot be used"):
        Bundle(bundles.signed(copy, triton=triton))


def test_a_prefixed_bundle_lists_no_file_of_another_prefix(folder: Path, tmp_path: Path) -> None:
    named = bundles.renamed(folder, tmp_path / "named", "VERSION_", 7)
    opened = Bundle(named)
    assert opened.graph_path("image_encoder") == named / "VERSION_image_encoder" / "7" / "model.onnx"
    assert {entry.name for entry in named.iterdir()} | {"card.toml"} == set(bundle_entries(named))
    (named / "manifest.json").write_text(manifest_that_lists(named, "image_encoder/7/model.onnx"))
    with pytest.raises(BundleError, match="cannot be a file of a bundle"):
        Bundle(named)
