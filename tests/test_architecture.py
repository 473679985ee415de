"""Imports run in one direction and without circles, and no package imports what it must not."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests import architecture
from tests.architecture import LAYERS, imported_names, module_files, module_graph, package_graph, package_of

# Running a bundle needs no torch. `lrclr.engines._torch` runs checkpoints, and is imported on request.
WITHOUT_TORCH = {
    *("lrclr.text", "lrclr.input_checks", "lrclr.images", "lrclr.preprocessing", "lrclr.bundle", "lrclr.inference"),
    *(
        "lrclr.verification",
        "lrclr.dicom_results",
        "lrclr.pacs",
        "lrclr.web",
        "lrclr.triton",
        "lrclr.archive",
        "lrclr.deploy",
        "lrclr.reports",
        "lrclr_export.plans",
    ),
}
# The network does not depend on the export.
NOT_IN_MODEL = {"onnx", "onnx_ir", "onnxruntime", "onnxscript", "openvino", "tensorrt", "tensorrt_rtx", "tritonclient"}


@pytest.fixture(scope="module")
def files() -> dict[str, Path]:
    return module_files()


@pytest.fixture(scope="module")
def modules(files: dict[str, Path]) -> dict[str, set[str]]:
    return module_graph(files)


@pytest.fixture(scope="module")
def packages(modules: dict[str, set[str]]) -> dict[str, set[str]]:
    return package_graph(modules)


def test_every_package_is_in_the_list_of_layers(packages: dict[str, set[str]]) -> None:
    assert sorted(packages) == sorted(LAYERS)


@pytest.mark.parametrize("package", LAYERS)
def test_imports_run_in_one_direction(package: str, packages: dict[str, set[str]]) -> None:
    later = LAYERS[LAYERS.index(package) :]
    assert not packages[package].intersection(later)


def test_modules_have_no_import_circles(modules: dict[str, set[str]]) -> None:
    """Also within a package, and including imports in functions and for types."""
    TopologicalSorter(modules).prepare()


def test_torch_is_imported_where_it_belongs(files: dict[str, Path]) -> None:
    importing = {module for module, file in files.items() if {"torch", "transformers"} & _libraries(file)}
    assert not {module for module in importing if package_of(module) in WITHOUT_TORCH}
    # This shows that the check above finds imports.
    assert "lrclr.model.modeling" in importing


def test_the_network_does_not_import_the_export(files: dict[str, Path]) -> None:
    for module, file in files.items():
        if package_of(module) == "lrclr.model":
            assert not _libraries(file) & NOT_IN_MODEL


def test_the_page_has_the_current_table(packages: dict[str, set[str]]) -> None:
    page = architecture.PAGE.read_text()
    written = architecture.with_table(page, architecture.table(packages))
    assert page == written, "run `python -m tests.architecture`"


def test_a_test_says_why_it_imports_a_private_module() -> None:
    """Most tests use public names."""
    silent = []
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        text = file.read_text()
        names = {name for name in imported_names(file) if name.startswith(("lrclr.", "lrclr_export."))}
        private = {name for name in names if any(part[0] == "_" != part[1] for part in name.split("."))}
        if private and "# Private: " not in text:
            silent.append(file.name)
    assert silent == []


@pytest.mark.parametrize(
    "later",
    [
        "import top.one.a",
        "from top.one import a",
        "from top.one.a import NAME",
        "def f():\n    from top.one import a",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from top.one.a import NAME",
    ],
)
def test_a_circle_is_found(later: str, tmp_path: Path) -> None:
    """The tests above would pass on an empty graph."""
    first = "from top.two import b\nNAME = 0"
    for name, content in {"one/__init__": "", "one/a": first, "two/__init__": "", "two/b": later}.items():
        file = tmp_path / "top" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    modules = module_graph(module_files([tmp_path / "top"]))
    assert modules["top.two.b"] == {"top.one.a"}
    assert package_graph(modules)["top.one"] == {"top.two"}
    with pytest.raises(CycleError):
        TopologicalSorter(modules).prepare()


def _libraries(file: Path) -> set[str]:
    return {name.partition(".")[0] for name in imported_names(file)}
