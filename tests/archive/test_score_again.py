"""Stopped in any way and started again, changed or grown: nothing is lost, doubled, or done twice."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest

from lrclr import LrclrError, ZeroShotClassifier
from lrclr.archive import score

# Private: the hash of settings, which parts that older versions wrote hold.
from lrclr.archive._settings import Settings
from lrclr.errors import UsageError
from lrclr.samples import sample_paths
from tests import bundles
from tests.archive import archives

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lrclr.archive import ScoreProgress

SAMPLE = sample_paths()[0]


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trust the times of files that were just made."""
    monkeypatch.setattr("lrclr.archive._decode._UNSETTLED_NS", 0)


@pytest.fixture
def mine(archive: Path, tmp_path: Path) -> Path:
    """An archive that a test may change."""
    return shutil.copytree(archive, tmp_path / "archive", symlinks=True)


def test_the_second_run_does_nothing(mine: Path, bundle: Path, tmp_path: Path, settled: None) -> None:
    first = score(mine, tmp_path / "out", archives.options(bundle))
    before = bundles.digests(tmp_path / "out")
    second = score(mine, tmp_path / "out", archives.options(bundle))
    assert (first.scored, first.failed) == (archives.GOOD, archives.BAD)
    # Those that could not be read at all are tried again.
    assert (second.scored, second.unchanged, second.kept) == (0, 0, len(archives.names(mine)) - 2)
    assert second.failures == first.failures
    assert bundles.digests(tmp_path / "out") == before


def test_files_that_were_just_written_are_known_by_their_hash(mine: Path, bundle: Path, tmp_path: Path) -> None:
    score(mine, tmp_path / "out", archives.options(bundle))
    second = score(mine, tmp_path / "out", archives.options(bundle))
    assert (second.scored, second.unchanged, second.kept) == (0, len(archives.names(mine)) - 2, 0)


def test_recheck_trusts_no_time(mine: Path, bundle: Path, tmp_path: Path, settled: None) -> None:
    score(mine, tmp_path / "out", archives.options(bundle))
    second = score(mine, tmp_path / "out", archives.options(bundle, recheck=True))
    assert (second.scored, second.unchanged, second.kept) == (0, len(archives.names(mine)) - 2, 0)


def test_a_changed_file_of_the_same_size_and_time_is_seen(
    mine: Path, bundle: Path, tmp_path: Path, settled: None
) -> None:
    score(mine, tmp_path / "out", archives.options(bundle))
    before = {row["file"]: row for row in archives.rows(tmp_path / "out")}
    file = mine / "study1" / "image01.png"
    status = file.stat()
    bundles.flip(file)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    again = score(mine, tmp_path / "out", archives.options(bundle))
    after = {row["file"]: row for row in archives.rows(tmp_path / "out")}
    # A flipped byte breaks the PNG's checksum.
    assert (again.scored, again.failed) == (0, archives.BAD + 1)
    assert [name for name in before if before[name] != after[name]] == ["study1/image01.png"]
    assert after["study1/image01.png"]["sha256"] != before["study1/image01.png"]["sha256"]


def test_new_files_are_scored_and_rows_of_gone_ones_kept(
    mine: Path, bundle: Path, tmp_path: Path, settled: None
) -> None:
    score(mine, tmp_path / "out", archives.options(bundle))
    (mine / "study2" / "image02.png").unlink()
    bundles.radiograph(mine / "study2" / "late.png", 7)
    again = score(mine, tmp_path / "out", archives.options(bundle))
    assert (again.scored, again.gone, again.images) == (1, 1, archives.GOOD + archives.BAD)
    files = [row["file"] for row in archives.rows(tmp_path / "out")]
    assert files == sorted([*archives.names(mine), "study2/image02.png"])
    score(mine, tmp_path / "fresh", archives.options(bundle))
    late = [row for row in archives.rows(tmp_path / "fresh") if row["file"] == "study2/late.png"]
    assert late == [row for row in archives.rows(tmp_path / "out") if row["file"] == "study2/late.png"]


def test_another_bundle_is_refused_until_everything_shall_be_scored_again(
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
    # From here on the folder is the other bundle's.
    assert score(archive, out, archives.options(other)).scored == 0


def test_a_damaged_part_is_made_again(archive: Path, scored: Path, bundle: Path, tmp_path: Path) -> None:
    out = shutil.copytree(scored, tmp_path / "out")
    part = next(out.glob("part-*.parquet"))
    wanted = pq.read_table(part).num_rows
    bundles.flip(part, 100)
    again = score(archive, out, archives.options(bundle))
    assert 0 < again.scored <= wanted
    assert archives.rows(out) == archives.rows(scored)


def killed(
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


def test_killed_at_every_write_and_between_them(archive: Path, scored: Path, bundle: Path, tmp_path: Path) -> None:
    """Each run goes on with what the killed one before it left: at the settings' write, and amid each part's."""
    out = tmp_path / "out"
    seen = 0
    for fsyncs, chunks in ((1, 0), (2, 0), (3, 0), (0, 22), (3, 0), (2, 0)):
        done = killed(archive, out, bundle, fsyncs, chunks)
        assert done.returncode == -signal.SIGKILL, done.stderr
        parts = sorted(out.glob("part-*.parquet"))
        assert len(parts) >= seen
        seen = len(parts)
        files = [name for part in parts for name in pq.read_table(part)["file"].to_pylist()]
        assert len(set(files)) == len(files)
    assert seen >= 2
    assert list(out.glob(".*.partial"))
    done = killed(archive, out, bundle)
    assert json.loads(done.stdout) == {"failed": archives.BAD, "ray": False}
    assert archives.rows(out) == archives.rows(scored)
    assert not list(out.glob(".*.partial"))


def test_killed_amid_a_part_keeps_what_was_saved(archive: Path, scored: Path, bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert killed(archive, out, bundle, chunks=12, rows=2048, save_seconds=0).returncode == -signal.SIGKILL
    # The outcomes of the last chunk may not be saved.
    assert pq.read_table(out).num_rows >= 11
    done = killed(archive, out, bundle, rows=2048)
    assert json.loads(done.stdout)["failed"] == archives.BAD
    assert archives.rows(out) == archives.rows(scored)


def interrupted(chunks: int) -> Callable[[ScoreProgress], None]:
    """Ctrl-C after so many chunks."""
    left = chunks

    def on_progress(_: ScoreProgress) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt

    return on_progress


@pytest.mark.parametrize("batch_size", [1, 4])
def test_an_interrupted_run_keeps_every_row_and_ends_with_the_same_bytes(
    batch_size: int, mine: Path, bundle: Path, tmp_path: Path, settled: None
) -> None:
    options = archives.options(bundle, rows_per_part=2048, batch_size=batch_size)
    whole = score(mine, tmp_path / "whole", options)
    kept = 0
    for chunks in (1, 3, 2):
        with pytest.raises(KeyboardInterrupt) as caught:
            score(mine, tmp_path / "out", options, on_progress=interrupted(chunks))
        rows = archives.rows(tmp_path / "out")
        assert caught.value.__notes__ == [f"kept {len(rows)} rows; run again to go on"]
        assert len(rows) >= kept + chunks
        # Files that could not be read at all are tried again.
        kept = sum(row["final"] for row in rows)
    last = score(mine, tmp_path / "out", options)
    assert (last.kept, last.scored < whole.scored) == (kept, True)
    assert last.failures == whole.failures
    assert bundles.digests(tmp_path / "out") == bundles.digests(tmp_path / "whole")


@pytest.mark.parametrize("chunks", [1, 4, 20])
def test_an_interrupted_update_loses_no_old_row(
    chunks: int, mine: Path, bundle: Path, tmp_path: Path, settled: None
) -> None:
    """New, changed, unchanged and missing files at once, with hashes to compare."""
    options = archives.options(bundle, rows_per_part=2048)
    score(mine, tmp_path / "out", options)
    (mine / "study2" / "image02.png").unlink()
    for number in range(3):
        bundles.radiograph(mine / "study0" / f"late{number}.png", number)
        bundles.radiograph(mine / "study1" / f"image0{3 * number + 1}.png", 40 + number)
    recheck = archives.options(bundle, rows_per_part=2048, recheck=True)
    with pytest.raises(KeyboardInterrupt):
        score(mine, tmp_path / "out", recheck, on_progress=interrupted(chunks))
    files = [row["file"] for row in archives.rows(tmp_path / "out")]
    assert len(set(files)) == len(files)
    assert "study2/image02.png" in files
    last = score(mine, tmp_path / "out", recheck)
    assert (last.gone, last.images) == (1, len(archives.names(mine)))
    score(mine, tmp_path / "fresh", options)
    found = [row for row in archives.rows(tmp_path / "out") if row["file"] != "study2/image02.png"]
    assert found == archives.rows(tmp_path / "fresh")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_whole_parts(
    number: signal.Signals, code: int, archive: Path, scored: Path, bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    files = tmp_path / "many"
    for copy in range(40):
        shutil.copytree(archive, files / str(copy), symlinks=True)
    call = ["score", str(files), "-o", str(out), "-b", str(bundle), "--workers", "1"]
    process = subprocess.Popen([*bundles.LRCLR, *call], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    bundles.wait_until(lambda: any(out.glob("part-*.parquet")), process)
    for _ in range(6):  # as `timeout` and impatient users do
        process.send_signal(number)
        time.sleep(0.02)
    _, told = process.communicate()
    # The last signal may end Python while it exits. A shell shows the same code for both.
    assert process.returncode in {code, -number}, told
    assert "Traceback" not in told
    assert not list(out.glob(".*.partial"))
    kept = pq.read_table(out).num_rows
    assert 0 < kept < 40 * (archives.GOOD + archives.BAD)
    assert f"kept {kept} rows; run again to go on" in told


def test_a_full_disk_keeps_what_is_there(archive: Path, scored: Path, bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert killed(archive, out, bundle, fsyncs=3).returncode == -signal.SIGKILL
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


def test_two_runs_do_not_write_to_one_folder(archive: Path, scored: Path, bundle: Path, tmp_path: Path) -> None:
    out = shutil.copytree(scored, tmp_path / "out")
    with (out / "_lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(LrclrError, match="another run is writing"):
            score(archive, out, archives.options(bundle))
    assert score(archive, out, archives.options(bundle)).scored == 0


def test_embeddings_are_a_column_that_may_be_asked_for(mine: Path, bundle: Path, tmp_path: Path, settled: None) -> None:
    plain, rich = tmp_path / "plain", tmp_path / "rich"
    score(mine, plain, archives.options(bundle))
    score(mine, rich, archives.options(bundle, embeddings=True))
    expected = {path: ZeroShotClassifier.from_bundle(bundle, threads=1).embed_images([path])[0] for path in [SAMPLE]}
    shutil.copy(SAMPLE, mine / "sample.png")
    # An interrupted or grown archive keeps the old rows with their embeddings.
    assert score(mine, rich, archives.options(bundle, embeddings=True)).scored == 1
    for row, other in zip(
        [row for row in archives.rows(rich) if row["file"] != "sample.png"], archives.rows(plain), strict=True
    ):
        embedding = row.pop("image_embedding")
        assert (embedding is None) == (row["status"] == "failed")
        assert row == other
    (sample,) = (row for row in archives.rows(rich) if row["file"] == "sample.png")
    assert sample["image_embedding"] == expected[SAMPLE].tolist()
    with pytest.raises(UsageError, match="another choice of --embeddings"):
        score(mine, plain, archives.options(bundle, embeddings=True))
    assert score(mine, plain, archives.options(bundle, embeddings=True, rescore=True)).scored == archives.GOOD + 1
    assert "image_embedding" in archives.rows(plain)[0]


def test_a_folder_from_before_there_were_embeddings_stays_valid(
    mine: Path, bundle: Path, tmp_path: Path, settled: None
) -> None:
    score(mine, tmp_path / "out", archives.options(bundle))
    run = tmp_path / "out" / "_run.json"
    content = json.loads(run.read_text())
    assert content.pop("embeddings") is False
    run.write_text(json.dumps(content))
    again = score(mine, tmp_path / "out", archives.options(bundle))
    assert (again.scored, again.kept) == (0, len(archives.names(mine)) - 2)
    # The hash that version 0.1.0 of 26 November 2026 gave these settings.
    settings = Settings("b", "f", 0.5, None, False, "onnxruntime", "cpu", 1, 1, None, 3, schema=2)
    assert settings.digest == "d91e905096218643dda7fcab105277dc7c910806da53c686405e1ad2c3011313"
