"""A short run of every fuzzer, and all inputs that failed in long runs."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests import bundles
from tests.fuzz import targets

ROOT = Path(__file__).parents[2]
FOUND = sorted((Path(__file__).parent / "found").glob("*/*"))
RUN = """
import sys
from tests.fuzz import targets
targets.prepare(sys.argv[1])
targets.run(sys.argv[1], open(sys.argv[2], "rb").read())
"""


@pytest.mark.slow
@pytest.mark.parametrize("target", targets.TARGETS)
def test_a_short_run_finds_nothing(target: str, tmp_path: Path) -> None:
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris is not installed: it is for Linux")
    command = [sys.executable, "-m", "tests.fuzz", target, "--runs", "400", "--keep", str(tmp_path)]
    # libFuzzer ends a process without cleaning up.
    environment = bundles.environment(TMPDIR=str(tmp_path))
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Done 400 runs" in done.stderr
    assert not list((tmp_path / target).iterdir())


@pytest.mark.parametrize("file", FOUND, ids=lambda file: f"{file.parent.name}-{file.name[:20]}")
def test_inputs_that_once_failed_pass(file: Path) -> None:
    command = [sys.executable, "-c", RUN, file.parent.name, str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize(
    "work",
    [
        "open('/tmp/elsewhere', 'w')",
        "__import__('os').system('true')",
        "next(now for now in iter(time.process_time, None) if now > began + 0.6)",
        "b'x' * 1_200_000_000",
    ],
)
def test_forbidden_actions_are_reported(work: str) -> None:
    """The fuzzer reports a target with a fault."""
    code = f"""
import time
from tests.fuzz import targets as t
began = time.process_time()
t.SECONDS = 0.5
t.TARGETS["bad"] = lambda data: {work}
t.run("bad", b"")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "ForbiddenError" in done.stderr
