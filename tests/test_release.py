"""Released files are reproducible and contain everything that users need."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
SOURCES = ("lrclr", "export", "pyproject.toml", "README.md", "LICENSE", "NOTICE")


def _wheel(folder: Path, modified: int) -> Path:
    """Build a wheel in `folder` from sources that all have one modification time."""
    folder.mkdir()
    for name in SOURCES:
        source, target = ROOT / name, folder / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    for path in folder.rglob("*"):
        os.utime(path, (modified, modified))
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1767225600"}
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel"]
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    (wheel,) = (folder / "dist").iterdir()
    return wheel


def test_two_builds_have_the_same_bytes(tmp_path: Path) -> None:
    first, second = _wheel(tmp_path / "one", 1_600_000_000), _wheel(tmp_path / "another", 1_700_000_000)
    assert hashlib.sha256(first.read_bytes()).digest() == hashlib.sha256(second.read_bytes()).digest()
    names = set(zipfile.ZipFile(first).namelist())
    assert {"lrclr/data/kernels/region_select_80.ptx", "lrclr/data/checkpoint/model.safetensors"} <= names
    assert {"lrclr_export/__init__.py", "lrclr/py.typed", "lrclr/data/task.npz", "lrclr/web/static/index.html"} <= names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", "export/"))]


def test_every_dependency_is_pinned() -> None:
    """Every dependency of an extra, except full TensorRT and ONNX Runtime for CUDA.

    Both are for machines with a GPU, and the latter excludes the pinned ONNX Runtime for the CPU.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = map(Requirement, filter(None, lines))
    pinned = {canonicalize_name(pin.name): pin.specifier for pin in pins}
    assert all(len(versions) == 1 and str(versions).startswith("==") for versions in pinned.values())
    extras = project["optional-dependencies"]
    wanted = [Requirement(line) for group in [project["dependencies"], *extras.values()] for line in group]
    for requirement in wanted:
        if requirement.name not in {"lrclr", "onnxruntime-gpu", "tensorrt"}:
            (pin,) = pinned[canonicalize_name(requirement.name)]
            assert requirement.specifier.contains(pin.version), f"{requirement} excludes what is tested, {pin.version}"


def test_the_container_is_built_from_this_repository() -> None:
    folder = ROOT / "lrclr" / "triton" / "server" / "container"
    (service,) = yaml.safe_load((folder / "compose.yaml").read_text())["services"].values()
    build = service["build"]
    assert (folder / build["context"]).resolve() == ROOT
    assert (folder / build["additional_contexts"]["bundle"]).resolve() == ROOT / "triton_repo"
    assert (ROOT / build["dockerfile"]).resolve() == folder / "Containerfile"
    copied = re.findall(r"(?m)^COPY (?!--)(.+) \S+$", (folder / "Containerfile").read_text())
    assert copied
    assert all((ROOT / name).exists() for line in copied for name in line.split())


def test_links_in_documents_have_targets() -> None:
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git repository")
    broken = [
        f"{page}: {link}"
        for page in listed.stdout.split()
        for link in re.findall(r"\]\(([^)#\s]+)", (ROOT / page).read_text())
        if ":" not in link and "{" not in link and not (ROOT / page).parent.joinpath(link).exists()
    ]
    assert not broken
