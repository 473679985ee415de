"""Scores from Ray's workers equal those of one process.

The cluster listens on loopback only; killed processes lose no row.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import psutil
import pyarrow.parquet as pq
import pytest

from lrclr.errors import BundleError
from tests import bundles
from tests.archive import archives

if TYPE_CHECKING:
    from pathlib import Path

slow = pytest.mark.slow
COPIES = 12


@pytest.fixture(scope="module")
def many(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of some hundreds of images."""
    folder = tmp_path_factory.mktemp("many")
    for copy in range(COPIES):
        for name in archives.names(archive):
            target = folder / str(copy) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if (archive / name).is_symlink():
                target.symlink_to(folder / "nowhere")
            else:
                target.write_bytes((archive / name).read_bytes())
    return folder


@pytest.fixture(scope="module")
def expected(many: Path, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scores of `many` from one process."""
    out = tmp_path_factory.mktemp("expected") / "out"
    assert bundles.run(score_arguments(many, out, bundle, "local")).returncode == 1
    return out


def score_arguments(source: Path, out: Path, bundle: Path, runner: str) -> list[str]:
    return ["score", str(source), "-o", str(out), "-b", str(bundle), "--rows-per-part", "50", "--runner", runner]


def start_run(many: Path, out: Path, bundle: Path) -> subprocess.Popen[str]:
    """Start a run on a cluster of its own and return when its first part is written."""
    command = [*bundles.LRCLR, *score_arguments(many, out, bundle, "ray"), "--actors", "2", "--actor-cpus", "0.5"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=bundles.environment()
    )
    bundles.wait_until(lambda: any(out.glob("part-*.parquet")), process)
    return process


def descendants(process: subprocess.Popen[str]) -> list[psutil.Process]:
    processes: list[psutil.Process] = psutil.Process(process.pid).children(recursive=True)
    return processes


@slow
def test_ray_gives_the_same_rows_and_listens_on_loopback_only(
    many: Path, expected: Path, bundle: Path, tmp_path: Path
) -> None:
    process = start_run(many, tmp_path / "out", bundle)
    commands, listening = [], set()
    for child in descendants(process):
        # Ray also starts helpers that end at once.
        with contextlib.suppress(psutil.NoSuchProcess):
            commands.append(" ".join(child.cmdline()))
            connections = child.net_connections("tcp")
            listening |= {each.laddr.ip for each in connections if each.status == psutil.CONN_LISTEN}
    _, stderr = process.communicate()
    assert process.returncode == 1, stderr
    assert "Traceback" not in stderr
    assert any("raylet" in command for command in commands)
    # Ray starts that program even for no more than its own housekeeping.
    assert all("--disable-frontend" in command for command in commands if "dashboard.py" in command)
    assert listening <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    parts = sorted(path.name for path in expected.glob("part-*.parquet"))
    assert parts == sorted(path.name for path in (tmp_path / "out").glob("part-*.parquet"))
    for name in parts:
        from_one_process, from_ray = (
            pq.read_table(folder / name).replace_schema_metadata(None) for folder in (expected, tmp_path / "out")
        )
        assert from_one_process.equals(from_ray)


@slow
def test_a_killed_actor_loses_no_row(many: Path, expected: Path, bundle: Path, tmp_path: Path) -> None:
    process = start_run(many, tmp_path / "out", bundle)
    actor = next(each for each in descendants(process) if "MapWorker" in " ".join(each.cmdline()))
    actor.send_signal(signal.SIGKILL)
    _, stderr = process.communicate()
    assert process.returncode == 1, stderr
    assert archives.rows(tmp_path / "out") == archives.rows(expected)


@slow
def test_a_killed_driver_leaves_complete_parts_and_no_process(
    many: Path, expected: Path, bundle: Path, tmp_path: Path
) -> None:
    process = start_run(many, tmp_path / "out", bundle)
    processes = descendants(process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    # Ray's agents look for their cluster for a minute.
    _, remaining = psutil.wait_procs(processes)
    assert remaining == []
    process.communicate()
    done = bundles.run(score_arguments(many, tmp_path / "out", bundle, "local"))
    assert done.returncode == 1, done.stderr
    assert archives.rows(tmp_path / "out") == archives.rows(expected)


@slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_cluster_too(
    number: signal.Signals, code: int, many: Path, bundle: Path, tmp_path: Path
) -> None:
    process = start_run(many, tmp_path / "out", bundle)
    processes = descendants(process)
    process.send_signal(number)
    _, stderr = process.communicate()
    assert process.returncode == code, stderr
    assert "Traceback" not in stderr
    assert f"kept {pq.read_table(tmp_path / 'out').num_rows} rows; run again to go on" in stderr
    _, remaining = psutil.wait_procs(processes)
    assert remaining == []
    assert not list((tmp_path / "out").glob(".*.partial"))


@slow
def test_ray_sends_no_usage_statistics(bundle: Path) -> None:
    code = "import lrclr.archive._ray; from ray._common.usage import usage_lib; print(usage_lib.usage_stats_enabled())"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@slow
def test_a_missing_cluster_is_named_in_the_error(archive: Path, bundle: Path, tmp_path: Path) -> None:
    done = bundles.run([*score_arguments(archive, tmp_path / "out", bundle, "ray"), "--address", "127.0.0.1:1"])
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "cannot connect to the Ray cluster at 127.0.0.1:1" in done.stderr


@slow
def test_an_engine_that_an_actor_cannot_open_is_one_line(archive: Path, bundle: Path, tmp_path: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("the engine can be opened")
    done = bundles.run([*score_arguments(archive, tmp_path / "out", bundle, "ray"), "--provider", "cuda"])
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "error: ONNX Runtime has no CUDAExecutionProvider" in done.stderr


def test_the_error_of_an_actor_is_one_line() -> None:
    ray_errors = pytest.importorskip("ray.exceptions")

    # Private: the error of an actor reaches the driver through Ray only.
    from lrclr.archive._ray import _explained

    cause = BundleError("the bundle is a different one here", why="its manifest changed")
    error = ray_errors.RayTaskError("_Encode", "Traceback (most recent call last):\n  many lines", cause)
    raised = error.as_instanceof_cause()
    assert isinstance(raised, BundleError)
    found = _explained(raised)
    assert (type(found), str(found)) == (BundleError, str(cause))
