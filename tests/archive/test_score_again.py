"""A run that is stopped, repeated, or continued after the archive has changed loses no row and computes none twice."""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

from lrclr import LrclrError, ZeroShotClassifier
from lrclr.archive import score

# Private: the hash of the settings, which folders written by older versions contain.
from lrclr.archive._settings import Settings
from lrclr.auto import ChosenEngine, open_engine
from lrclr.cli import main
from lrclr.engines import EngineOptions
from lrclr.errors import UsageError
from lrclr.samples import sample_paths
from tests import bundles
from tests.archive import archives

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lrclr.archive import ScoreProgress
    from lrclr.bundle import Bundle

SAMPLE = sample_paths()[0]


@pytest.fixture
def trusted_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `score` trust the modification times of files that have just been written."""
    monkeypatch.setattr("lrclr.archive._decode._UNSETTLED_NS", 0)


@pytest.fixture
def own_archive(archive: Path, tmp_path: Path) -> Path:
    """A copy of `archive` that a test may change."""
    return shutil.copytree(archive, tmp_path / "archive", symlinks=True)


def test_a_second_run_scores_nothing(own_archive: Path, bundle: Path, tmp_path: Path, trusted_times: None) -> None:
    first = score(own_archive, tmp_path / "out", archives.options(bundle))
    before = bundles.digests(tmp_path / "out")
    second = score(own_archive, tmp_path / "out", archives.options(bundle))
    assert (first.scored, first.failed) == (archives.GOOD, archives.BAD)
    # Only the file that could not be opened is tried again.
    assert (second.scored, second.unchanged, second.kept) == (0, 0, len(archives.names(own_archive)) - 1)
    assert second.failures == first.failures
    assert bundles.digests(tmp_path / "out") == before


def test_recently_written_files_are_compared_by_hash(own_archive: Path, bundle: Path, tmp_path: Path) -> None:
    score(own_archive, tmp_path / "out", archives.options(bundle))
    second = score(own_archive, tmp_path / "out", archives.options(bundle))
    assert (second.scored, second.unchanged, second.kept) == (0, len(archives.names(own_archive)) - 1, 0)


def test_recheck_compares_hashes_and_not_times(
    own_archive: Path, bundle: Path, tmp_path: Path, trusted_times: None
) -> None:
    score(own_archive, tmp_path / "out", archives.options(bundle))
    second = score(own_archive, tmp_path / "out", archives.options(bundle, recheck=True))
    assert (second.scored, second.unchanged, second.kept) == (0, len(archives.names(own_archive)) - 1, 0)


def test_recheck_finds_a_change_that_keeps_size_and_time(
    own_archive: Path, bundle: Path, tmp_path: Path, trusted_times: None
) -> None:
    score(own_archive, tmp_path / "out", archives.options(bundle))
    before = {row["file"]: row for row in archives.rows(tmp_path / "out")}
    file = own_archive / "study1" / "image01.png"
    status = file.stat()
    bundles.flip(file)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    again = score(own_archive, tmp_path / "out", archives.options(bundle))
    after = {row["file"]: row for row in archives.rows(tmp_path / "out")}
    # A flipped byte breaks the PNG's checksum.
    assert (again.scored, again.failed) == (0, archives.BAD + 1)
    assert [name for name in before if before[name] != after[name]] == ["study1/image01.png"]
    assert after["study1/image01.png"]["sha256"] != before["study1/image01.png"]["sha256"]


def test_new_files_are_scored_and_rows_of_removed_files_are_kept(
    own_archive: Path, bundle: Path, tmp_path: Path, trusted_times: None
) -> None:
    score(own_archive, tmp_path / "out", archives.options(bundle))
    (own_archive / "study2" / "image02.png").unlink()
    bundles.radiograph(own_archive / "study2" / "late.png", 7)
    again = score(own_archive, tmp_path / "out", archives.options(bundle))
    assert (again.scored, again.gone, again.images) == (1, 1, archives.GOOD + archives.BAD)
    files = [row["file"] for row in archives.rows(tmp_path / "out")]
    assert files == sorted([*archives.names(own_archive), "study2/image02.png"])
    score(own_archive, tmp_path / "fresh", archives.options(bundle))
    late = [row for row in archives.rows(tmp_path / "fresh") if row["file"] == "study2/late.png"]
    assert late == [row for row in archives.rows(tmp_path / "out") if row["file"] == "study2/late.png"]


def test_another_bundle_is_refused_without_the_option_to_score_all_again(
    archive: Path, scored: Path, bundle: Path, tmp_path: Path
) -> None:
    other = bundles.signed(bundles.copied(bundle, tmp_path / "bundle"), made_with={"somebody": "else"})
    out = shutil.copytree(scored, tmp_path / "out")
    before = bundles.digests(out)
    with pytest.raises(UsageError, match="scores with another bundle"):
        score(archive, out, archives.options(other))
    assert bundles.digests(out) == before
    again = score(archive, out, archives.options(other, rescore=True))
    assert again.scored == archives.GOOD
    old, new = archives.rows(scored), archives.rows(out)
    assert {row["bundle"] for row in old}.isdisjoint({row["bundle"] for row in new})
    assert [row["probability"] for row in old] == [row["probability"] for row in new]
    # From here on the folder belongs to the other bundle.
    assert score(archive, out, archives.options(other)).scored == 0


def test_a_damaged_part_is_written_again(archive: Path, scored: Path, bundle: Path, tmp_path: Path) -> None:
    out = shutil.copytree(scored, tmp_path / "out")
    part = next(out.glob("part-*.parquet"))
    wanted = pq.read_table(part).num_rows
    bundles.flip(part, 100)
    again = score(archive, out, archives.options(bundle))
    assert 0 < again.scored <= wanted
    assert again.damaged == 1
    assert archives.rows(out) == archives.rows(scored)


@pytest.mark.parametrize("name", ["part-000001.parquet", "_run.json"])
def test_a_file_that_the_system_cannot_read_ends_the_run_and_nothing_is_changed(
    name: str, archive: Path, scored: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = shutil.copytree(scored, tmp_path / "out")
    before = bundles.digests(out)
    opened = io.open

    def refuse(file: Any, *arguments: Any, **more: Any) -> Any:
        if str(file).endswith(name):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(file))
        return opened(file, *arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr("io.open", refuse)
        with pytest.raises(LrclrError, match=f"{name} cannot be read: Input/output error") as caught:
            score(archive, out, archives.options(bundle))
    assert caught.value.exit_code == 1
    assert bundles.digests(out) == before


def test_an_image_that_cannot_be_read_now_keeps_its_row(
    own_archive: Path, bundle: Path, tmp_path: Path, trusted_times: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """The missing file stands for a missing permission, which root does not notice."""
    for path in (own_archive / "study1", own_archive / "study2"):
        shutil.rmtree(path)
    score(own_archive, tmp_path / "out", archives.options(bundle))
    before = archives.rows(tmp_path / "out")
    file = own_archive / "study0" / "image03.png"
    file.rename(tmp_path / "aside.png")
    (own_archive / "names.csv").write_text("\n".join(["image", *(row["file"] for row in before)]) + "\n")
    call = ["score", str(own_archive / "names.csv"), "-o", str(tmp_path / "out"), "-b", str(bundle)]
    assert main(call) == 1
    assert "1 of 10 images cannot be read now: their earlier rows are kept" in capsys.readouterr().err
    assert archives.rows(tmp_path / "out") == before
    # Another content, which a missing decoder may refuse, has another row.
    (tmp_path / "aside.png").rename(file)
    bundles.flip(file)
    assert score(own_archive / "names.csv", tmp_path / "out", archives.options(bundle)).failed == 1
    assert sum(row["status"] == "failed" for row in archives.rows(tmp_path / "out")) == 1


def test_the_engine_that_auto_stands_for_is_recorded_and_compared(
    own_archive: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = []

    def choose(opened: Bundle, options: EngineOptions) -> ChosenEngine:
        calls.append(options.threads)
        engine = open_engine(opened, replace(options, engine="onnxruntime"))
        return ChosenEngine(engine, "onnxruntime", "a test", replace(options, engine="onnxruntime"))

    monkeypatch.setattr("lrclr.auto._choice.choose_engine", choose)
    out = tmp_path / "out"
    assert main(["score", str(own_archive), "-o", str(out), "-b", str(bundle), "--engine", "auto"]) == 1
    assert calls == [1]
    assert "(a test)" in capsys.readouterr().err
    content = json.loads((out / "_run.json").read_text())
    assert (content["graph_engine"], content["batch_size"]) == ("onnxruntime", 1)
    (out / "_run.json").write_text(json.dumps({**content, "graph_engine": "openvino"}))
    with pytest.raises(UsageError, match="another graph engine"):
        score(own_archive, out, archives.options(bundle, engine=EngineOptions("auto")))


def test_rows_that_another_source_replaces_are_counted(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for source in ("first", "second"):
        (tmp_path / source).mkdir()
        bundles.radiograph(tmp_path / source / "same.png", 1)
        bundles.radiograph(tmp_path / source / "other.png", len(source))
    for source, count in (("first", 0), ("second", 1), ("second", 0)):
        assert main(["score", str(tmp_path / source), "-o", str(tmp_path / "out"), "-b", str(bundle)]) == 0
        text = "1 rows of the same names were replaced"
        assert (text in capsys.readouterr().err) == bool(count)


def run_killed(
    archive: Path,
    out: Path,
    bundle: Path,
    fsyncs: int = 0,
    chunks: int = 0,
    rows: int = archives.ROWS_PER_PART,
    save_seconds: float = 3600,
) -> subprocess.CompletedProcess[str]:
    numbers = (fsyncs, chunks, rows, save_seconds)
    command = [sys.executable, "-m", "tests.archive.archives", *map(str, (archive, out, bundle, *numbers))]
    return subprocess.run(
        command, cwd=archives.ROOT, env=bundles.environment(), capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_runs_killed_at_each_write_are_continued(archive: Path, scored: Path, bundle: Path, tmp_path: Path) -> None:
    """Each run continues what the killed run before it left. The kills come while settings or parts are written."""
    out = tmp_path / "out"
    seen = 0
    for fsyncs, chunks in ((1, 0), (2, 0), (3, 0), (0, 22), (3, 0), (2, 0)):
        done = run_killed(archive, out, bundle, fsyncs, chunks)
        assert done.returncode == -signal.SIGKILL, done.stderr
        parts = sorted(out.glob("part-*.parquet"))
        assert len(parts) >= seen
        seen = len(parts)
        files = [name for part in parts for name in pq.read_table(part)["file"].to_pylist()]
        assert len(set(files)) == len(files)
    assert seen >= 2
    assert list(out.glob(".*.partial"))
    done = run_killed(archive, out, bundle)
    assert json.loads(done.stdout) == {"failed": archives.BAD, "ray": False}
    assert archives.rows(out) == archives.rows(scored)
    assert not list(out.glob(".*.partial"))


def test_a_run_killed_during_a_part_keeps_the_saved_rows(
    archive: Path, scored: Path, bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert run_killed(archive, out, bundle, chunks=12, rows=2048, save_seconds=0).returncode == -signal.SIGKILL
    # The results of the last chunk may be missing.
    assert pq.read_table(out).num_rows >= 11
    done = run_killed(archive, out, bundle, rows=2048)
    assert json.loads(done.stdout)["failed"] == archives.BAD
    assert archives.rows(out) == archives.rows(scored)


def interrupt_after(chunks: int) -> Callable[[ScoreProgress], None]:
    """A progress callback that raises KeyboardInterrupt after `chunks` chunks."""
    remaining = chunks

    def on_progress(_: ScoreProgress) -> None:
        nonlocal remaining
        remaining -= 1
        if remaining == 0:
            raise KeyboardInterrupt

    return on_progress


@pytest.mark.parametrize("batch_size", [1, 4])
def test_an_interrupted_run_keeps_every_row_and_ends_with_the_same_bytes(
    batch_size: int, own_archive: Path, bundle: Path, tmp_path: Path, trusted_times: None
) -> None:
    options = archives.options(bundle, rows_per_part=2048, batch_size=batch_size)
    whole = score(own_archive, tmp_path / "whole", options)
    kept = 0
    for chunks in (1, 3, 2):
        with pytest.raises(KeyboardInterrupt) as caught:
            score(own_archive, tmp_path / "out", options, on_progress=interrupt_after(chunks))
        rows = archives.rows(tmp_path / "out")
        assert caught.value.__notes__ == [f"kept {len(rows)} rows; run again to go on"]
        assert len(rows) >= kept + chunks
        # Files that could not be opened are tried again.
        kept = sum(row["final"] for row in rows)
    last = score(own_archive, tmp_path / "out", options)
    assert (last.kept, last.scored < whole.scored) == (kept, True)
    assert last.failures == whole.failures
    assert bundles.digests(tmp_path / "out") == bundles.digests(tmp_path / "whole")


@pytest.mark.parametrize("chunks", [1, 4, 20])
def test_an_interrupted_update_loses_no_old_row(
    chunks: int, own_archive: Path, bundle: Path, tmp_path: Path, trusted_times: None
) -> None:
    """New, changed, unchanged and missing files in one run, compared by hash."""
    options = archives.options(bundle, rows_per_part=2048)
    score(own_archive, tmp_path / "out", options)
    (own_archive / "study2" / "image02.png").unlink()
    for number in range(3):
        bundles.radiograph(own_archive / "study0" / f"late{number}.png", number)
        bundles.radiograph(own_archive / "study1" / f"image0{3 * number + 1}.png", 40 + number)
    recheck = archives.options(bundle, rows_per_part=2048, recheck=True)
    with pytest.raises(KeyboardInterrupt):
        score(own_archive, tmp_path / "out", recheck, on_progress=interrupt_after(chunks))
    files = [row["file"] for row in archives.rows(tmp_path / "out")]
    assert len(set(files)) == len(files)
    assert "study2/image02.png" in files
    last = score(own_archive, tmp_path / "out", recheck)
    assert (last.gone, last.images) == (1, len(archives.names(own_archive)))
    score(own_archive, tmp_path / "fresh", options)
    found = [row for row in archives.rows(tmp_path / "out") if row["file"] != "study2/image02.png"]
    assert found == archives.rows(tmp_path / "fresh")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_complete_parts(
    number: signal.Signals, code: int, archive: Path, scored: Path, bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    files = tmp_path / "many"
    for copy in range(40):
        shutil.copytree(archive, files / str(copy), symlinks=True)
    call = ["score", str(files), "-o", str(out), "-b", str(bundle), "--workers", "1"]
    process = subprocess.Popen([*bundles.LRCLR, *call], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    bundles.wait_until(lambda: any(out.glob("part-*.parquet")), process)
    for _ in range(6):  # `timeout` and impatient users send several signals
        process.send_signal(number)
        time.sleep(0.02)
    _, stderr = process.communicate()
    # The last signal may end Python while it exits. A shell reports the same code for both.
    assert process.returncode in {code, -number}, stderr
    assert "Traceback" not in stderr
    assert not list(out.glob(".*.partial"))
    kept = pq.read_table(out).num_rows
    assert 0 < kept < 40 * (archives.GOOD + archives.BAD)
    assert f"kept {kept} rows; run again to go on" in stderr


def test_a_full_disk_keeps_the_written_parts(archive: Path, scored: Path, bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run_killed(archive, out, bundle, fsyncs=3).returncode == -signal.SIGKILL
    before = bundles.digests(out)
    call = ["score", archive, "-o", out, "-b", bundle]
    with bundles.no_large_files(4_000):
        done = bundles.call(*call)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "could not be written: File too large" in done.stderr
    after = bundles.digests(out)
    assert after.items() >= {name: digest for name, digest in before.items() if name.startswith("part-")}.items()
    assert bundles.call(*call).returncode == 1  # for the damaged files
    assert archives.rows(out) == archives.rows(scored)


def test_a_second_run_on_the_same_folder_is_refused(archive: Path, scored: Path, bundle: Path, tmp_path: Path) -> None:
    out = shutil.copytree(scored, tmp_path / "out")
    with (out / "_lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(LrclrError, match="another run is writing"):
            score(archive, out, archives.options(bundle))
    assert score(archive, out, archives.options(bundle)).scored == 0


def test_embeddings_are_an_optional_column(
    own_archive: Path, bundle: Path, tmp_path: Path, trusted_times: None
) -> None:
    plain, rich = tmp_path / "plain", tmp_path / "rich"
    score(own_archive, plain, archives.options(bundle))
    score(own_archive, rich, archives.options(bundle, embeddings=True))
    expected = {path: ZeroShotClassifier.from_bundle(bundle, threads=1).embed_images([path])[0] for path in [SAMPLE]}
    shutil.copy(SAMPLE, own_archive / "sample.png")
    # When an archive grows or a run was interrupted, the old rows keep their embeddings.
    assert score(own_archive, rich, archives.options(bundle, embeddings=True)).scored == 1
    for row, other in zip(
        [row for row in archives.rows(rich) if row["file"] != "sample.png"], archives.rows(plain), strict=True
    ):
        embedding = row.pop("image_embedding")
        assert (embedding is None) == (row["status"] == "failed")
        assert row == other
    (sample,) = (row for row in archives.rows(rich) if row["file"] == "sample.png")
    assert sample["image_embedding"] == expected[SAMPLE].tolist()
    with pytest.raises(UsageError, match="another choice of --embeddings"):
        score(own_archive, plain, archives.options(bundle, embeddings=True))
    assert (
        score(own_archive, plain, archives.options(bundle, embeddings=True, rescore=True)).scored == archives.GOOD + 1
    )
    assert "image_embedding" in archives.rows(plain)[0]


def test_a_folder_of_an_older_version_stays_valid(
    own_archive: Path, bundle: Path, tmp_path: Path, trusted_times: None
) -> None:
    score(own_archive, tmp_path / "out", archives.options(bundle))
    run = tmp_path / "out" / "_run.json"
    content = json.loads(run.read_text())
    assert content.pop("embeddings") is False
    run.write_text(json.dumps(content))
    again = score(own_archive, tmp_path / "out", archives.options(bundle))
    assert (again.scored, again.kept) == (0, len(archives.names(own_archive)) - 1)
    # The hash that version 0.1.0 of 26 November 2026 computed for these settings.
    settings = Settings("b", "f", 0.5, None, False, "onnxruntime", "cpu", 1, 1, None, 3, schema=2)
    assert settings.digest == "d91e905096218643dda7fcab105277dc7c910806da53c686405e1ad2c3011313"
