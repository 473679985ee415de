"""An optional dependency that is missing: the extra that is named brings everything that the command needs."""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.metadata
import re
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from packaging.requirements import Requirement

# Private: the tables that errors are built from have no public name.
from lrclr.cli import _extras, main
from lrclr.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
REQUIRES = [getattr(_extras, name) for name in dir(_extras) if name.startswith("require_")]


def brought(extra: str) -> set[str]:
    """The distributions that ``lrclr[extra]`` installs by itself."""
    found: set[str] = set()
    for text in EXTRAS[extra]:
        requirement = Requirement(text)
        if requirement.name == "lrclr":
            found |= {name for inner in requirement.extras for name in brought(inner)}
        else:
            found |= {requirement.name.lower(), *_needed(requirement)}
    return found


@cache
def _needed(requirement: Requirement) -> set[str]:
    """What an installed distribution needs itself, with its extras."""
    try:
        needed = map(Requirement, importlib.metadata.requires(requirement.name) or ())
    except importlib.metadata.PackageNotFoundError:
        return set()
    return {
        inner.name.lower()
        for inner in needed
        if any(inner.marker is None or inner.marker.evaluate({"extra": extra}) for extra in (*requirement.extras, ""))
    }


def distributions(module: str) -> set[str]:
    """What provides a module, or a distribution of that name."""
    return {name.lower() for name in _providers().get(module.partition(".")[0], [])} | {module.lower()}


@cache
def _providers() -> Mapping[str, list[str]]:
    """The distributions that provide each module. Cached: it reads the records of every installed package."""
    return importlib.metadata.packages_distributions()


class Absent:
    """Makes modules look as if they were not installed, and hears which are asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, names: Sequence[str] | None) -> None:
        self.names, self.asked = names, list[str]()
        monkeypatch.setattr(sys, "meta_path", [self, *sys.meta_path])
        for name in list(sys.modules):
            if names is not None and name.partition(".")[0] in names:
                monkeypatch.delitem(sys.modules, name)

    def find_spec(self, name: str, _: object = None, __: object = None) -> importlib.machinery.ModuleSpec | None:
        self.asked.append(name)
        if self.names is not None and name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None


def modules_of(require: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The modules that one of the functions asks for."""
    asked: list[str] = []

    def hear(extra: str, packages: tuple[str, ...], _: str) -> None:
        asked.extend(packages)

    with monkeypatch.context() as patch:
        patch.setattr(_extras, "_require", hear)
        require()
    return asked


@pytest.mark.parametrize("require", REQUIRES, ids=lambda function: function.__name__)
def test_one_extra_brings_what_a_command_needs(require: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    modules = modules_of(require, monkeypatch)
    assert modules
    for module in modules:
        with monkeypatch.context() as patch:
            Absent(patch, [module.partition(".")[0]])
            with pytest.raises(MissingExtraError) as caught:
                require()
        (extra,) = re.findall(r"\.\[([\w-]+)(?:,onnxruntime)?\]", str(caught.value))
        assert all(distributions(other) & brought(extra) for other in modules), (module, extra)


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (("export", "default", "-o", "bundle"), "export"),
        (("convert", "default", "out"), "torch"),
        (("init", "out"), "torch"),
        (("train", "table.csv", "--base", "default", "-o", "out"), "train"),
        (("bench", "default"), "torch"),
        (("bench", "default", "--reference", "default"), "export"),
    ],
)
def test_commands_without_torch(
    arguments: tuple[str, ...], extra: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "torch" else importlib.machinery.ModuleSpec
    )
    assert main(list(arguments)) == 2
    said = " ".join(capfd.readouterr().err.split())
    assert "needs the package 'torch', which is not installed" in said
    assert f"pip install '.[{extra}]'" in said


def constructions() -> list[tuple[str, str | None, str | None]]:
    """Each place where the error is made: file, and the package and extra where they are literals."""
    found = []
    for file in sorted([*(ROOT / "lrclr").rglob("*.py"), *(ROOT / "export").rglob("*.py")]):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "MissingExtraError":
                package, extra = (
                    str(argument.value) if isinstance(argument, ast.Constant) else None for argument in node.args[:2]
                )
                found.append((file.relative_to(ROOT).as_posix(), package, extra))
    return found


def test_every_error_names_an_extra_that_brings_its_package() -> None:
    places = constructions()
    literal = [(file, package, extra) for file, package, extra in places if package and extra]
    assert len(literal) >= 5
    for file, package, extra in literal:
        assert package is not None
        assert extra is not None
        assert distributions(package) & brought(extra), (file, package, extra)
    # The others are built from tables, which have tests of their own.
    others = {file for file, package, extra in places if not (package and extra)}
    assert others <= {
        "lrclr/__init__.py",
        "lrclr/cli/_extras.py",
        "lrclr/triton/client/_wire.py",
        "lrclr/engines/_cuda.py",
        "lrclr/engines/_tensorrt_library.py",
        "lrclr/images/_dicom_decode.py",
        "lrclr/archive/_run.py",
    }


def test_the_tables_that_errors_are_built_from(monkeypatch: pytest.MonkeyPatch) -> None:
    from lrclr.archive import RayOptions, ScoreOptions
    from lrclr.archive import _run as score
    from lrclr.engines import PLAN_ENGINES
    from lrclr.engines._tensorrt_library import PACKAGES
    from lrclr.images import _dicom_decode

    for engine, package in PACKAGES.items():
        # TensorRT-RTX and TensorRT call their distributions with a dash.
        assert {package.lower(), package.lower().replace("_", "-")} & brought(engine)
    for engine in PLAN_ENGINES:
        assert "cuda-bindings" in brought(engine)
    packages = re.findall(r'"(py[\w-]+|python-gdcm)"', Path(_dicom_decode.__file__).read_text())
    assert packages
    assert {name for name in packages if name != "pylibjpeg-libjpeg"} <= brought("dicom")
    for options, extra in ((ScoreOptions(Path()), "score"), (ScoreOptions(Path(), runner=RayOptions()), "ray")):
        monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
        with pytest.raises(MissingExtraError, match=rf"\.\[{extra}\]"):
            score._require(options)
        assert {"pyarrow"} | ({"ray", "pandas"} if extra == "ray" else set()) <= {
            name.partition("[")[0] for name in brought(extra)
        }
