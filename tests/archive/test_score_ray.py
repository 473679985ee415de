"""Ray's workers give the same rows, nothing of theirs is reached from outside, and losing one loses nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import psutil
import pyarrow.parquet as pq
import pytest

from tests import bundles
from tests.archive import archives

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow
COPIES = 12


@pytest.fixture(scope="module")
def many(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some hundreds of images."""
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
    """What one process makes of them."""
    out = tmp_path_factory.mktemp("expected") / "out"
    assert bundles.run(call(many, out, bundle, "local")).returncode == 1
    return out


def call(source: Path, out: Path, bundle: Path, runner: str) -> list[str]:
    return ["score", str(source), "-o", str(out), "-b", str(bundle), "--rows-per-part", "50", "--runner", runner]


def running(many: Path, out: Path, bundle: Path) -> subprocess.Popen[str]:
    """A run on a cluster of its own, from the moment that its first part is there."""
    command = [*bundles.LRCLR, *call(many, out, bundle, "ray"), "--actors", "2", "--actor-cpus", "0.5"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=bundles.environment()
    )
    bundles.wait_until(lambda: any(out.glob("part-*.parquet")), process)
    return process


def descendants(process: subprocess.Popen[str]) -> list[psutil.Process]:
    family: list[psutil.Process] = psutil.Process(process.pid).children(recursive=True)
    return family


def test_the_same_bytes_and_no_door_to_the_outside(many: Path, expected: Path, bundle: Path, tmp_path: Path) -> None:
    process = running(many, tmp_path / "out", bundle)
    family = descendants(process)
    commands = [" ".join(one.cmdline()) for one in family]
    listening = {
        one.laddr.ip for each in family for one in each.net_connections("tcp") if one.status == psutil.CONN_LISTEN
    }
    _, told = process.communicate()
    assert process.returncode == 1, told
    assert "Traceback" not in told
    assert any("raylet" in command for command in commands)
    # Ray starts that program even for no more than its own housekeeping.
    assert all("--disable-frontend" in command for command in commands if "dashboard.py" in command)
    assert listening <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    parts = sorted(path.name for path in expected.glob("part-*.parquet"))
    assert parts == sorted(path.name for path in (tmp_path / "out").glob("part-*.parquet"))
    for name in parts:
        one, other = (
            pq.read_table(folder / name).replace_schema_metadata(None) for folder in (expected, tmp_path / "out")
        )
        assert one.equals(other)


def test_an_actor_that_is_killed_takes_nothing_with_it(
    many: Path, expected: Path, bundle: Path, tmp_path: Path
) -> None:
    process = running(many, tmp_path / "out", bundle)
    actor = next(one for one in descendants(process) if "MapWorker" in " ".join(one.cmdline()))
    actor.send_signal(signal.SIGKILL)
    _, told = process.communicate()
    assert process.returncode == 1, told
    assert archives.rows(tmp_path / "out") == archives.rows(expected)


def test_a_driver_that_is_killed_leaves_whole_parts_and_no_process(
    many: Path, expected: Path, bundle: Path, tmp_path: Path
) -> None:
    process = running(many, tmp_path / "out", bundle)
    family = descendants(process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    # Ray's agents look for their cluster for a minute.
    _, left = psutil.wait_procs(family)
    assert left == []
    process.communicate()
    done = bundles.run(call(many, tmp_path / "out", bundle, "local"))
    assert done.returncode == 1, done.stderr
    assert archives.rows(tmp_path / "out") == archives.rows(expected)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_cluster_too(
    number: signal.Signals, code: int, many: Path, bundle: Path, tmp_path: Path
) -> None:
    process = running(many, tmp_path / "out", bundle)
    family = descendants(process)
    process.send_signal(number)
    _, told = process.communicate()
    assert process.returncode == code, told
    assert "Traceback" not in told
    assert f"kept {pq.read_table(tmp_path / 'out').num_rows} rows; run again to go on" in told
    _, left = psutil.wait_procs(family)
    assert left == []
    assert not list((tmp_path / "out").glob(".*.partial"))


def test_nothing_is_told_to_anybody(bundle: Path) -> None:
    code = "import lrclr.archive._ray; from ray._common.usage import usage_lib; print(usage_lib.usage_stats_enabled())"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_cluster_that_is_not_there_is_named(archive: Path, bundle: Path, tmp_path: Path) -> None:
    done = bundles.run([*call(archive, tmp_path / "out", bundle, "ray"), "--address", "127.0.0.1:1"])
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "cannot connect to the Ray cluster at 127.0.0.1:1" in done.stderr
