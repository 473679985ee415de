"""A missing optional dependency: the error names one extra that installs everything the command needs."""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.metadata
import re
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from packaging.requirements import Requirement

# Private: the tables from which errors are built have no public name.
from lrclr.cli import _extras, main
from lrclr.errors import _OF_TORCH, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]


def installed_by(extra: str) -> set[str]:
    """The distributions that ``lrclr[extra]`` installs."""
    found: set[str] = set()
    for text in EXTRAS[extra]:
        requirement = Requirement(text)
        if requirement.name == "lrclr":
            found |= {name for inner in requirement.extras for name in installed_by(inner)}
        else:
            found |= {requirement.name.lower(), *_requirements_of(requirement)}
    return found


@cache
def _requirements_of(requirement: Requirement) -> set[str]:
    """The distributions that an installed distribution requires, with its extras."""
    try:
        requirements = map(Requirement, importlib.metadata.requires(requirement.name) or ())
    except importlib.metadata.PackageNotFoundError:
        return set()
    return {
        inner.name.lower()
        for inner in requirements
        if any(inner.marker is None or inner.marker.evaluate({"extra": extra}) for extra in (*requirement.extras, ""))
    }


def distributions(module: str) -> set[str]:
    """The distributions that provide a module, and the module's name itself."""
    return {name.lower() for name in _providers().get(module.partition(".")[0], [])} | {module.lower()}


@cache
def _providers() -> Mapping[str, list[str]]:
    """The distributions that provide each module. Cached: it reads the records of every installed package."""
    return importlib.metadata.packages_distributions()


class HiddenModules:
    """Hides modules as if they were not installed, and records which modules are requested."""

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


@pytest.mark.parametrize("command", _extras._NEEDS)
def test_one_extra_installs_all_modules_of_a_command(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    modules, _ = _extras._NEEDS[command]
    assert modules
    for module in modules:
        with monkeypatch.context() as patch:
            HiddenModules(patch, [module.partition(".")[0]])
            with pytest.raises(MissingExtraError) as caught:
                _extras.require(command)
        (extra,) = re.findall(r"\.\[([\w-]+)(?:,onnxruntime)?\]", str(caught.value))
        assert all(distributions(other) & installed_by(extra) for other in modules), (module, extra)


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
def test_the_error_without_torch_names_the_extra(
    arguments: tuple[str, ...], extra: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "torch" else importlib.machinery.ModuleSpec
    )
    assert main(list(arguments)) == 2
    stderr = " ".join(capfd.readouterr().err.split())
    assert "needs the package 'torch', which is not installed" in stderr
    assert f"pip install '.[{extra}]'" in stderr


def places_of_errors() -> list[tuple[str, str | None, str | None]]:
    """Each place where `MissingExtraError` is raised: file, package and extra. None where they are not literals."""
    found = []
    for file in sorted([*(ROOT / "lrclr").rglob("*.py"), *(ROOT / "export").rglob("*.py")]):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "MissingExtraError":
                package, extra = (
                    str(argument.value) if isinstance(argument, ast.Constant) else None for argument in node.args[:2]
                )
                found.append((file.relative_to(ROOT).as_posix(), package, extra))
    return found


def test_every_error_names_an_extra_that_installs_its_package() -> None:
    places = places_of_errors()
    literal = [(file, package, extra) for file, package, extra in places if package and extra]
    assert len(literal) >= 5
    for file, package, extra in literal:
        assert package is not None
        assert extra is not None
        assert distributions(package) & installed_by(extra), (file, package, extra)
    # Other errors are built from tables, which the next test checks.
    others = {file for file, package, extra in places if not (package and extra)}
    assert others <= {
        "lrclr/__init__.py",
        "lrclr/cli/_extras.py",
        "lrclr/errors.py",
        "lrclr/triton/client/_wire.py",
        "lrclr/engines/_cuda.py",
        "lrclr/engines/_tensorrt_library.py",
        "lrclr/images/_dicom_decode.py",
        "lrclr/archive/_run.py",
    }


def test_the_tables_of_extras_are_correct(monkeypatch: pytest.MonkeyPatch) -> None:
    from lrclr.archive import RayOptions, ScoreOptions
    from lrclr.archive import _run as score
    from lrclr.engines import PLAN_ENGINES
    from lrclr.engines._tensorrt_library import PACKAGES
    from lrclr.images import _dicom_decode

    for engine, package in PACKAGES.items():
        # The distributions of TensorRT-RTX and TensorRT have a dash in their names.
        assert {package.lower(), package.lower().replace("_", "-")} & installed_by(engine)
    assert installed_by("torch") >= _OF_TORCH
    for engine in PLAN_ENGINES:
        assert "cuda-bindings" in installed_by(engine)
    packages = re.findall(r'"(py[\w-]+|python-gdcm)"', Path(_dicom_decode.__file__).read_text())
    assert packages
    assert {name for name in packages if name != "pylibjpeg-libjpeg"} <= installed_by("dicom")
    for options, extra in ((ScoreOptions(Path()), "score"), (ScoreOptions(Path(), runner=RayOptions()), "ray")):
        monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
        with pytest.raises(MissingExtraError, match=rf"\.\[{extra}\]"):
            score._require(options)
        assert {"pyarrow"} | ({"ray", "pandas"} if extra == "ray" else set()) <= {
            name.partition("[")[0] for name in installed_by(extra)
        }
