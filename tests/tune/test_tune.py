"""`lrclr tune` with real Triton servers and a tiny bundle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from lrclr import Bundle
from lrclr.triton.server import ServeOptions, TritonServer
from tests import bundles

pytestmark = pytest.mark.triton
# Private: the files by which a server is found after its process was killed.
SHARED_MEMORY = Path("/dev/shm")


def servers(pid: int) -> list[Path]:
    """Claims of the servers that a process has started."""
    return list(SHARED_MEMORY.glob(f"lrclr_{pid}_*.owner"))


@pytest.mark.slow
def test_a_real_search_keeps_what_it_chose(bundle: Path, tmp_path: Path) -> None:
    """A limit that every server reaches, and a time that is enough for one round with two configurations."""
    running = servers(os.getpid())
    done = bundles.call(
        *("tune", bundle, "--p99", 20_000, "--minutes", 0.1, "--decoding", "server"),
        *("--output", tmp_path / "tuned", "--report", tmp_path / "report"),
    )
    assert done.returncode == 0, done.stderr
    assert servers(os.getpid()) == running
    result = json.loads((tmp_path / "report" / "tune.json").read_text())
    names = [row["name"] for row in result["rows"]]
    assert "default" in names
    assert all(name in done.stdout for name in names)
    windows = [window for row in result["rows"] for each in row["estimates"] for window in each["windows"]]
    assert all(len(window["latency_ms"]) > 0 for window in windows)
    assert all(window["offered"] > 0 for window in windows)
    chosen = result["rows"][result["chosen"]]
    assert chosen["estimates"][-1]["rate"] > 0
    tuned = Bundle(tmp_path / "tuned")
    assert tuned.manifest.serving.to_dict() == chosen["settings"]
    assert Bundle(bundle).manifest.tuning == []
    with TritonServer(tuned.path, ServeOptions(grpc_port=0, http=False, metrics=False)) as server:
        assert server.pid


@pytest.mark.slow
def test_callers_beyond_the_limit_change_nothing(bundle: Path, tmp_path: Path) -> None:
    """No server answers within a microsecond. The client decodes files and sends pixels, and no request is lost."""
    before = bundles.digests(bundle)
    done = bundles.call(
        *("tune", bundle, "--p99", 0.001, "--callers", 2, "--minutes", 0.02, "--decoding", "client"),
        *("--report", tmp_path / "report"),
    )
    assert done.returncode == 3
    assert "no configuration answers 99 % of the requests within 0.001 ms" in done.stderr
    assert "ms with 2 callers" in done.stderr
    assert "above the limit" in done.stdout
    assert bundles.digests(bundle) == before
    result = json.loads((tmp_path / "report" / "tune.json").read_text())
    assert {window["lost"] for row in result["rows"] for each in row["estimates"] for window in each["windows"]} == {0}


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_a_signal_leaves_the_bundle_and_no_server(
    number: signal.Signals, code: int, bundle: Path, tmp_path: Path
) -> None:
    before = bundles.digests(bundle)
    folder = tmp_path / "temporary"
    folder.mkdir()
    process = subprocess.Popen(
        [*bundles.LRCLR, "tune", str(bundle), "--p99", "20000", "--report", str(tmp_path / "report")],
        stderr=subprocess.PIPE,
        text=True,
        env=bundles.environment(TMPDIR=str(folder)),
    )
    bundles.wait_until(lambda: bool(servers(process.pid)), process)
    process.send_signal(number)
    _, stderr = process.communicate()
    assert process.returncode == code
    assert "Traceback" not in stderr
    assert bundles.digests(bundle) == before
    bundles.wait_until(lambda: not servers(process.pid))
    assert list(folder.iterdir()) == []
    assert not (tmp_path / "report").exists()


def test_an_image_that_cannot_be_read_is_an_error(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    done = bundles.call(
        "tune", bundle, "--p99", 100, "--file", tmp_path / "broken.png", "--report", tmp_path / "report"
    )
    assert done.returncode == 1
    assert "broken" not in done.stderr.replace(str(tmp_path), "")
