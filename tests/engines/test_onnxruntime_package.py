"""Two packages provide the module `onnxruntime`. Tests none, one and both, and leftovers after one is removed."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from packaging.requirements import Requirement

from lrclr import OnnxRuntimeEngine
from lrclr.cli import main

# Private: each case sets which packages are installed.
from lrclr.engines import _onnxruntime_package as package
from lrclr.errors import EngineError, MissingExtraError
from lrclr.samples import sample_paths
from tests import bundles

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).parents[2]
WHOLE = "class InferenceSession: pass"


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Each test imports the module again; other tests get the module of the installed package."""
    package.onnxruntime_library.cache_clear()
    real = {name: sys.modules.pop(name) for name in _modules()}
    yield
    for name in _modules():
        del sys.modules[name]
    sys.modules.update(real)
    package.onnxruntime_library.cache_clear()


def _modules() -> list[str]:
    return [name for name in sys.modules if name.partition(".")[0] == "onnxruntime"]


def install(folder: Path, packages: Sequence[str], code: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a folder the only one from which Python imports packages.

    Args:
        folder: the folder.
        packages: packages with metadata in the folder.
        code: code of the module. None for a folder without ``__init__.py``, an empty text for no folder.
        monkeypatch: restores the previous state.
    """
    for name in packages:
        metadata = folder / f"{name.replace('-', '_')}-1.31.1.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.31.1\n")
    if code != "":
        (folder / "onnxruntime" / "capi").mkdir(parents=True)
        (folder / "onnxruntime" / "capi" / "libonnxruntime_providers_cuda.so").touch()
    if code:
        (folder / "onnxruntime" / "__init__.py").write_text(code)
    monkeypatch.setattr(sys, "path", [str(folder), *(path for path in sys.path if "site-packages" not in path)])
    importlib.invalidate_caches()


@pytest.mark.parametrize(("packages", "code"), [([], ""), ([], None)])
def test_without_a_package_the_extras_are_named(
    packages: list[str], code: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, packages, code, monkeypatch)
    assert not package.has_onnxruntime()
    with pytest.raises(MissingExtraError) as caught:
        OnnxRuntimeEngine({})
    assert "pip install '.[onnxruntime]'" in str(caught.value)
    assert "pip install '.[onnxruntime-gpu]' for CUDA" in str(caught.value)


@pytest.mark.parametrize("name", ["onnxruntime", "onnxruntime-gpu"])
def test_one_package_is_used(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, [name], WHOLE, monkeypatch)
    assert package.has_onnxruntime()
    assert Path(package.onnxruntime_library().__file__).is_relative_to(tmp_path)


@pytest.mark.parametrize(
    ("packages", "code", "what"),
    [
        (["onnxruntime", "onnxruntime-gpu"], WHOLE, "onnxruntime and onnxruntime-gpu are both installed"),
        (["onnxruntime", "onnxruntime-gpu"], None, "onnxruntime and onnxruntime-gpu are both installed"),
        # One of both packages was uninstalled.
        (["onnxruntime-gpu"], None, "package onnxruntime-gpu is installed and cannot be loaded: some of its files"),
        (["onnxruntime"], "", "package onnxruntime is installed and cannot be loaded: some of its files"),
        (["onnxruntime"], "from .capi import _pybind_state", "cannot be loaded: cannot import name '_pybind_state'"),
        (["onnxruntime"], "import onnxruntime.capi.x", "cannot be loaded: No module named 'onnxruntime.capi.x'"),
        (["onnxruntime-gpu"], "raise OSError('libcudart.so.13: no such file')", "cannot be loaded: libcudart.so.13"),
    ],
)
def test_a_broken_installation_is_refused(
    packages: list[str], code: str | None, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, packages, code, monkeypatch)
    for _ in range(2):
        with pytest.raises(EngineError) as caught:
            OnnxRuntimeEngine({})
        assert what in str(caught.value)
        assert "pip uninstall -y onnxruntime onnxruntime-gpu" in str(caught.value)


def test_a_package_in_another_folder_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of two folders do not mix: Python imports from the first one."""
    install(tmp_path, ["onnxruntime-gpu"], WHOLE, monkeypatch)
    other = tmp_path / "site-packages"
    other.mkdir()
    install(other, ["onnxruntime"], WHOLE, monkeypatch)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert Path(package.onnxruntime_library().__file__).parent.parent == tmp_path


def test_the_module_is_imported_at_its_first_use() -> None:
    modules = "lrclr.engines, lrclr.verification, lrclr.archive, lrclr.inference._classifier, lrclr.cli, lrclr_export"
    code = f"import sys, {modules}; print('onnxruntime' in sys.modules)"
    done = subprocess.run([bundles.PYTHON, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_commands_without_onnxruntime(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    base = tmp_path_factory.getbasetemp()
    bundle = str(bundles.exported(base, "fp16"))
    image = str(sample_paths()[0])

    def absent() -> Any:
        raise MissingExtraError("onnxruntime", "onnxruntime", "the engine onnxruntime")

    for module in ("_onnxruntime", "_onnxruntime_package"):
        monkeypatch.setattr(f"lrclr.engines.{module}.onnxruntime_library", absent)
    assert main(["predict", image, "-b", bundle]) == 2
    assert "pip install '.[onnxruntime]'" in capfd.readouterr().err
    assert main(["export", "default", "-o", "bundle"]) == 2
    assert "pip install '.[onnxruntime]'" in capfd.readouterr().err
    assert main(["predict", image, "-b", bundle, "--engine", "openvino"]) == 0
    assert main(["verify", bundle, "--engine", "openvino"]) == 0
    assert "because onnxruntime is not installed (pip install '.[onnxruntime]')" in " ".join(
        capfd.readouterr().err.split()
    )


def test_an_extra_installs_at_most_one_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras: dict[str, list[str]] = project["optional-dependencies"]

    def installed_packages(lines: Sequence[str]) -> set[str]:
        found: set[str] = set()
        for requirement in map(Requirement, lines):
            found |= (
                installed_packages([line for extra in requirement.extras for line in extras[extra]])
                if requirement.name == "lrclr"
                else {requirement.name}
            )
        return found

    assert not {"onnxruntime", "onnxruntime-gpu"} & installed_packages(project["dependencies"])
    with_one = {
        name: found
        for name in extras
        if (found := installed_packages(extras[name]) & {"onnxruntime", "onnxruntime-gpu"})
    }
    assert with_one == {
        "onnxruntime": {"onnxruntime"},
        "onnxruntime-gpu": {"onnxruntime-gpu"},
        "dev": {"onnxruntime"},
    }


class FreshEnvironment:
    """A new virtual environment with pip and the dependencies of lrclr."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)

    def pip(self, *arguments: str) -> str:
        """Output of pip, which must succeed."""
        done = self._run("python", "-m", "pip", "--disable-pip-version-check", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def lrclr(self, *arguments: str) -> tuple[int, str]:
        """Exit code and output of lrclr."""
        done = self._run("lrclr", *arguments)
        return done.returncode, " ".join((done.stdout + done.stderr).split())

    def _run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return subprocess.run(
            [self.folder / "bin" / program, *arguments],
            cwd=self.folder,
            env={**environment, "CUDA_VISIBLE_DEVICES": ""},
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_installing_and_removing_packages_in_a_fresh_environment(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """No package, the GPU package (its CPU provider runs here), both, and back to one as the error says."""
    fresh = FreshEnvironment(tmp_path / "venv")
    pinned = ("-c", str(ROOT / "constraints.txt"))
    wheel = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--no-deps", "-d", tmp_path / "wheels", "onnxruntime-gpu>=1.24"],
        capture_output=True,
        text=True,
        check=False,
    )
    if wheel.returncode != 0:
        pytest.skip(f"onnxruntime-gpu cannot be downloaded: {wheel.stderr.strip().splitlines()[-1]}")
    (gpu,) = (tmp_path / "wheels").iterdir()
    bundle = str(bundles.exported(tmp_path_factory.getbasetemp(), "fp16"))
    image = str(sample_paths()[0])

    fresh.pip("install", *pinned, str(ROOT))
    assert fresh.lrclr("--help")[0] == 0
    assert fresh.lrclr("verify", bundle, "--files-only")[0] == 0
    code, printed = fresh.lrclr("predict", image, "-b", bundle)
    assert (code, "pip install '.[onnxruntime]'" in printed) == (2, True), printed

    # CUDA's own libraries are gigabytes, so pip only reports that it would install them.
    planned = fresh.pip("install", "--dry-run", *pinned, f"{ROOT}[onnxruntime-gpu]").splitlines()[-1].split()
    assert any(name.startswith("onnxruntime-gpu-") for name in planned)
    assert any(name.startswith("nvidia-cudnn-") for name in planned)
    assert not any(name.startswith("onnxruntime-1") for name in planned)
    fresh.pip("install", *pinned, str(gpu))
    code, printed = fresh.lrclr("verify", bundle)
    assert (code, "gates passed on onnxruntime" in printed) == (0, True), printed
    code, printed = fresh.lrclr("predict", image, "-b", bundle, "--provider", "cuda")
    assert (code, "pip install '.[onnxruntime-gpu]'" in printed) == (1, True), printed

    for removed, kept in (("onnxruntime", "onnxruntime-gpu"), ("onnxruntime-gpu", "onnxruntime")):
        fresh.pip("install", *pinned, str(gpu))
        fresh.pip("install", *pinned, f"{ROOT}[onnxruntime]")
        code, printed = fresh.lrclr("predict", image, "-b", bundle)
        assert (code, "are both installed" in printed) == (1, True), printed
        fresh.pip("uninstall", "-y", removed)
        code, printed = fresh.lrclr("predict", image, "-b", bundle)
        assert (code, f"the package {kept} is installed and cannot be loaded" in printed) == (1, True), printed
    assert "pip uninstall -y onnxruntime onnxruntime-gpu, and then pip install '.[onnxruntime]'" in printed
    fresh.pip("uninstall", "-y", "onnxruntime", "onnxruntime-gpu")
    fresh.pip("install", *pinned, f"{ROOT}[onnxruntime]")
    code, printed = fresh.lrclr("verify", bundle)
    assert (code, "gates passed on onnxruntime" in printed) == (0, True), printed
