"""`lrclr tune`: wrong calls are refused before a server starts. Reports of a result."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from lrclr.tune import save_reports
from tests import bundles

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lrclr.tune import TuneResult


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--p99", "0"), "p99 must be a number above 0"),
        (("--p99", "nan"), "p99 must be a number above 0"),
        (("--p99", "100", "--minutes", "0"), "time must be a number above 0"),
        (("--p99", "100", "--callers", "0"), "0 callers are not possible"),
        (("--p99", "100", "--decoding", "elsewhere"), "unknown place to decode files"),
        ((), "Missing option '--p99'"),
    ],
)
def test_wrong_options_are_refused(bundle: Path, options: tuple[str, ...], text: str, tmp_path: Path) -> None:
    done = bundles.call("tune", bundle, *options, "--report", tmp_path / "report")
    assert done.returncode == 2
    assert text in done.stderr


def test_a_server_that_is_not_there_is_an_error(bundle: Path, tmp_path: Path) -> None:
    before = bundles.digests(bundle)
    done = bundles.call("tune", bundle, "--p99", 100, "--server", tmp_path / "missing", "--report", tmp_path / "report")
    assert done.returncode == 1
    assert "is not an executable file" in done.stderr
    assert bundles.digests(bundle) == before
    assert not (tmp_path / "report").exists()


def test_a_bundle_for_a_gpu_needs_one(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # This machine may have a GPU.
    monkeypatch.setattr("lrclr.tune._run.gpus", list)
    plan = {
        "engine": "tensorrt",
        "library": "10.16.0",
        "compute_capabilities": ["9.0"],
        "options": {"hardware_compatible": "none", "version_compatible": False, "strip": False},
        "graphs": {},
    }
    bundles.signed(bundle, engine={"name": "tensorrt", "why": "asked for"}, plans=[plan])
    done = bundles.call("tune", bundle, "--p99", 100, "--server", "/bin/true", "--report", tmp_path / "report")
    assert done.returncode == 2
    assert "needs a GPU: this machine has none" in done.stderr
    assert "lrclr build" in done.stderr


@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_without_a_manifest_is_refused(tmp_path: Path, exists: bool) -> None:
    if exists:
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "notes.txt").write_text("mine")
    done = bundles.call("tune", tmp_path / "folder", "--p99", 100, "--report", tmp_path / "report")
    assert done.returncode == 1
    assert "is not a bundle" in done.stderr


@pytest.mark.parametrize("option", ["--report", "--output"])
def test_a_folder_with_other_files_is_refused_first(bundle: Path, tmp_path: Path, option: str) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "notes.txt").write_text("mine")
    others = () if option == "--report" else ("--report", tmp_path / "report")
    done = bundles.call("tune", bundle, "--p99", 100, "--server", "/bin/true", option, tmp_path / "own", *others)
    assert done.returncode == 2
    assert "notes.txt" in done.stderr


def test_reports_have_every_configuration_and_the_picture(
    bundle: Path, result_for: Callable[..., TuneResult], tmp_path: Path
) -> None:
    result = result_for(bundle)
    save_reports(tmp_path / "report", result)
    content = json.loads((tmp_path / "report" / "tune.json").read_text())
    assert [row["name"] for row in content["rows"]] == [row.name for row in result.rows]
    assert content["rows"][0]["estimates"][1]["windows"][0]["latency_ms"] == [1.0, 95.0]
    page = (tmp_path / "report" / "tune.html").read_text()
    assert 'class="latency-throughput"' in page
    assert "encoder instances 2 &lt;b&gt;|*" in page
    assert "<b>|*" not in page
    assert "did not start" in page
    assert "no room" in page
    assert "measured once" in page
    assert str(bundle.parent) not in page + json.dumps(content)
    save_reports(tmp_path / "again", result)
    assert bundles.digests(tmp_path / "again") == bundles.digests(tmp_path / "report")


def test_a_result_without_an_answer_has_a_picture_too(
    bundle: Path, result_for: Callable[..., TuneResult], tmp_path: Path
) -> None:
    from msgspec.structs import replace

    result = result_for(bundle, best=0.0)
    failed = replace(result, rows=(replace(result.rows[2], name="default"),), chosen=0, default=0)
    save_reports(tmp_path / "report", failed)
    assert "did not start" in (tmp_path / "report" / "tune.html").read_text()
