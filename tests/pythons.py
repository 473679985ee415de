"""Run the tests that need no torch on other Pythons: ``python -m tests.pythons [--required] python3.12 python3.13``.

This Python exports the bundles. Each other Python gets an environment in ``.make/pythons`` with the pinned packages
except torch, and runs the tests with these bundles.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
ENVIRONMENTS: Final = ROOT / ".make" / "pythons"
EXTRAS: Final = "bench,deploy,dicom,fast,onnxruntime,openvino,serve"
TOOLS: Final = (
    *("hypothesis", "pytest", "pytest-timeout", "regex", "onnx", "protobuf", "tritonclient[http]"),
    *("helm-python-sdk", "kubernetes-validate"),
)
# As in the Makefile, only the types of KServe are used, so its dependencies are not installed.
ALONE: Final = ("kserve==0.21.0",)
TESTS: Final = (
    "tests/images",
    "tests/preprocessing",
    "tests/text",
    "tests/engines/test_layer_types.py",
    "tests/engines/test_openvino_engine.py",
    "tests/engines/test_telemetry.py",
    "tests/inference",
    "tests/triton/client",
    "tests/triton/test_addresses.py",
    "tests/deploy",
    "tests/bundle",
    "tests/test_addresses.py",
    "tests/test_budget.py",
    "tests/test_files.py",
    "tests/test_processors.py",
)
MARKS: Final = "not slow and not gpu and not tensorrt and not triton"
_VERSION: Final = "import sys; print('%d.%d.%d' % sys.version_info[:3])"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pythons", nargs="+", metavar="PYTHON", help="interpreters")
    parser.add_argument("--required", action="store_true", help="fail if one of them is not installed")
    parser.add_argument("--here", action="store_true", help="use this environment without its torch, and no other")
    given = parser.parse_args()
    versions = {python: _version(python) for python in given.pythons}
    missing = [python for python, version in versions.items() if version is None]
    for python, version in versions.items():
        print(f"{python}: {'not installed' if version is None else f'Python {version}'}")
    if missing and given.required:
        print(f"error: {', '.join(missing)} cannot be run: install it, or leave it out of PYTHONS", file=sys.stderr)
        return 2
    if len(missing) == len(versions):
        print("SKIPPED: no other Python is installed, so nothing was tested")
        return 0
    failed = []
    with tempfile.TemporaryDirectory() as shared:
        print("== bundles, exported by this Python", flush=True)
        _export(Path(shared))
        for python, version in versions.items():
            if version is not None:
                print(f"== tests with Python {version}", flush=True)
                own = sys.executable if given.here else _environment(python, version)
                if _tests(own, Path(shared)) != 0:
                    failed.append(version)
    print(f"FAILED with Python {', '.join(failed)}" if failed else "passed with every Python that was found")
    return 1 if failed else 0


def _version(python: str) -> str | None:
    """Version of an interpreter. None if it cannot be run, such as pyenv's shim of an inactive version."""
    try:
        done = subprocess.run([python, "-c", _VERSION], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _export(shared: Path) -> None:
    code = (
        "from pathlib import Path; from tests import bundles; [bundles.exported(Path(), p) for p in ('fp16', 'fp32')]"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=_variables(shared), check=True)


def _environment(python: str, version: str) -> str:
    """Path of the interpreter in an environment with the packages. A second run takes seconds."""
    folder = ENVIRONMENTS / version
    own = str(folder / "bin" / "python")
    if not Path(own).exists():
        subprocess.run([python, "-m", "venv", folder], check=True)
    pip = [own, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", "constraints.txt"]
    subprocess.run([*pip, "-e", f".[{EXTRAS}]", *TOOLS], cwd=ROOT, check=True)
    subprocess.run([*pip, "--no-deps", *ALONE], cwd=ROOT, check=True)
    return own


def _tests(python: str, shared: Path) -> int:
    command = [python, "-m", "pytest", "-q", "-m", MARKS, "-p", "no:cacheprovider", *TESTS]
    variables = {**_variables(shared), "LRCLR_TEST_WITHOUT_TORCH": "1"}
    return subprocess.run(command, cwd=ROOT, env=variables, check=False).returncode


def _variables(shared: Path) -> dict[str, str]:
    return {**os.environ, "LRCLR_TEST_SHARED": str(shared)}


if __name__ == "__main__":
    sys.exit(main())
