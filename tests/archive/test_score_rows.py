"""Every image has exactly one row, with the classifier's results or the reason of the failure."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lrclr import LrclrError, ZeroShotClassifier, read_image
from lrclr.archive import LocalOptions, ScoreOptions, score
from lrclr.engines import CPU_ENGINES, ENGINES, EngineOptions
from lrclr.errors import UsageError
from lrclr.file_names import name_of, path_of
from lrclr.samples import sample_paths
from tests import bundles
from tests.archive import archives

if TYPE_CHECKING:
    from collections.abc import Callable


def test_every_file_has_one_row_and_failures_have_a_reason(archive: Path, scored: Path) -> None:
    rows = archives.rows(scored)
    assert [row["file"] for row in rows] == archives.names(archive)
    failed = {Path(row["file"]).name: row for row in rows if row["status"] == "failed"}
    assert sorted(failed) == ["cut.png", "dangling.dcm", "empty.png", "text.jpg"]
    assert failed["dangling.dcm"]["reason"] == "the file cannot be read: No such file or directory"
    empty = failed["empty.png"]
    assert (empty["final"], empty["bytes"], empty["sha256"]) == (True, 0, hashlib.sha256(b"").hexdigest())
    assert empty["reason"].startswith("the image is empty")
    for row in failed.values():
        assert row["error"] == "ImageError"
        assert not any(word in row["reason"] for word in ("Doe", "1970", "study", str(archive)))
        assert row["probability"] is None
    assert len(list(scored.glob("part-*.parquet"))) == 5
    assert pq.read_schema(next(scored.glob("part-*.parquet"))).metadata[b"lrclr.schema"] == b"3"


def test_rows_equal_the_classifiers_predictions(archive: Path, scored: Path, bundle: Path) -> None:
    classifier = ZeroShotClassifier.from_bundle(bundle, threads=1)
    good = [row for row in archives.rows(scored) if row["status"] == "scored"]
    assert len(good) == archives.GOOD
    for row in good:
        file = archive / row["file"]
        (answer,) = classifier.predict([read_image(file)])
        assert (row["height"], row["width"], row["bytes"]) == (answer.height, answer.width, file.stat().st_size)
        assert row["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
        assert row["bundle"] == classifier.spec.sha256
        assert row["findings"] == [each.name for each in answer.findings]
        assert row["remarks"] == []
        for column in ("probability", "global_positive", "global_negative", "local_positive", "local_negative"):
            assert row[column] == [getattr(each, column) for each in answer.findings]
        assert row["region_attention"] == [list(each.region_attention) for each in answer.findings]
        assert row["region_index"] == [region.patch for region in answer.regions]
        assert row["region_importance"] == [region.importance for region in answer.regions]


def test_a_row_has_the_remarks_about_its_file(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    bundles.odd_radiograph(tmp_path / "in" / "odd.dcm")
    (tmp_path / "in" / "text.dcm").write_bytes(bytes(128) + b"DICM")
    score(tmp_path / "in", tmp_path / "out", archives.options(bundle))
    odd, text = archives.rows(tmp_path / "out")
    assert odd["remarks"] == list(bundles.REMARKS)
    assert text["remarks"] is None


def test_a_row_has_the_warnings_and_a_refused_image_fails(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    good = read_image(sample_paths("png")[0])
    for name, pixels in {"good": good, "inverted": 255 - good}.items():
        Image.fromarray(pixels).save(tmp_path / "in" / f"{name}.png")
    score(tmp_path / "in", tmp_path / "out", archives.options(bundle))
    assert [row["warnings"] for row in archives.rows(tmp_path / "out")] == [[], ["inverted"]]
    options = archives.options(bundle, refuse=frozenset({"inverted"}))
    with pytest.raises(UsageError, match="set of refused warnings"):
        score(tmp_path / "in", tmp_path / "out", options)
    summary = score(tmp_path / "in", tmp_path / "out", replace(options, rescore=True))
    assert summary.failed == 1
    row = archives.rows(tmp_path / "out")[1]
    assert (row["status"], row["error"], row["final"], row["warnings"]) == ("failed", "ImageError", True, None)
    assert "the image is refused: inverted" in row["reason"]


@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_number_of_workers_does_not_change_the_rows(
    archive: Path, bundle: Path, tmp_path: Path, batch_size: int
) -> None:
    for workers in (1, 3):
        options = archives.options(bundle, batch_size=batch_size, runner=LocalOptions(workers))
        score(archive, tmp_path / str(workers), options)
    one_worker, three_workers = (pq.read_table(tmp_path / name) for name in ("1", "3"))
    assert one_worker.equals(three_workers)


def test_padding_of_a_batch_does_not_change_scores(archive: Path, scored: Path, bundle: Path, tmp_path: Path) -> None:
    score(archive, tmp_path / "out", archives.options(bundle, batch_size=7))
    for alone, batched in zip(archives.rows(scored), archives.rows(tmp_path / "out"), strict=True):
        assert (alone["file"], alone["status"], alone["sha256"]) == (
            batched["file"],
            batched["status"],
            batched["sha256"],
        )
        if alone["status"] == "scored":
            np.testing.assert_allclose(batched["probability"], alone["probability"], atol=1e-5)


def test_the_batch_is_one_image_on_a_processor_with_every_engine(tmp_path: Path) -> None:
    sizes = [ScoreOptions(tmp_path).images_at_once(engine) for engine in ENGINES]
    assert dict(zip(ENGINES, sizes, strict=True)) == {engine: 1 if engine in CPU_ENGINES else 32 for engine in ENGINES}
    on_gpu = ScoreOptions(tmp_path, engine=EngineOptions(provider="cuda"))
    assert on_gpu.images_at_once("onnxruntime") == 32


def write_dataset(folder: Path) -> Path:
    lines = ["image,frame", *(f"{name}," for name in archives.names(folder))]
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "manifest.csv"


def write_paths(folder: Path) -> Path:
    pq.write_table(pa.table({"path": archives.names(folder)}), folder / "paths.parquet")
    return folder / "paths.parquet"


@pytest.mark.parametrize("make", [write_dataset, write_paths, lambda folder: str(folder / "**" / "*.*")])
def test_every_kind_of_source_gives_the_same_rows(
    make: Callable[[Path], Path | str], archive: Path, scored: Path, bundle: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(archive, tmp_path / "copy", symlinks=True)
    source = make(copy)
    score(source, tmp_path / "out", archives.options(bundle))
    assert archives.rows(tmp_path / "out") == archives.rows(scored)


def test_images_inside_a_parquet_file_have_the_rows_of_the_files(
    archive: Path, scored: Path, bundle: Path, tmp_path: Path
) -> None:
    files = [name for name in archives.names(archive) if not name.endswith(".dcm")]
    table = pa.table({"file": files, "bytes": [(archive / name).read_bytes() for name in files]})
    pq.write_table(table, tmp_path / "images.parquet", row_group_size=7)
    summary = score(tmp_path / "images.parquet", tmp_path / "out", archives.options(bundle))
    assert (summary.images, summary.failed) == (len(files), archives.BAD - 1)
    assert archives.rows(tmp_path / "out") == [row for row in archives.rows(scored) if not row["file"].endswith(".dcm")]
    again = score(tmp_path / "images.parquet", tmp_path / "out", archives.options(bundle))
    assert again.scored == 0
    pq.write_table(table.slice(1), tmp_path / "images.parquet")
    with pytest.raises(UsageError, match="another source"):
        score(tmp_path / "images.parquet", tmp_path / "out", archives.options(bundle))


def test_an_image_that_is_named_twice_is_refused(archive: Path, bundle: Path, tmp_path: Path) -> None:
    name = archives.names(archive)[0]
    pq.write_table(
        pa.table({"path": [str(archive / name), str(archive / "study0" / ".." / name)]}), tmp_path / "p.parquet"
    )
    with pytest.raises(UsageError, match="names 1 images twice"):
        score(tmp_path / "p.parquet", tmp_path / "out", archives.options(bundle))
    assert not (tmp_path / "out").exists()


UNUSUAL_NAMES = (
    b"\xff\xfe.png",
    b"\\xff\\xfe.png",
    b"new\nline.png",
    b"[red]x[bold].png",
    b"; DROP.png",
    "日本語.png".encode(),
    b"-o.png",
)


def test_unusual_file_names_can_be_recovered_from_rows(bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    content = bundles.radiograph(tmp_path / "x.png").read_bytes()
    for name in UNUSUAL_NAMES:
        (folder / os.fsdecode(name)).write_bytes(content)
    summary = score(folder, tmp_path / "out", archives.options(bundle))
    assert (summary.images, summary.scored) == (len(UNUSUAL_NAMES), len(UNUSUAL_NAMES))
    found = [os.fsencode(path_of(row["file"])) for row in archives.rows(tmp_path / "out")]
    assert sorted(found) == sorted(UNUSUAL_NAMES)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out", "x.png"]


def test_different_names_have_different_texts() -> None:
    texts = {name_of(os.fsdecode(name)) for name in (b"\xff", b"\\xff", b"\\\\xff", b"\\", b"\\\\", "ÿ".encode())}
    assert len(texts) == 6
    assert all(name_of(path_of(text)) == text for text in texts)


def test_the_command_reports_failures(
    archive: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lrclr.cli import main

    call = ["score", str(archive), "-o", str(tmp_path / "out"), "-b", str(bundle), "--json"]
    assert main(call) == 1
    captured = capsys.readouterr()
    summary: dict[str, Any] = json.loads(captured.out)
    assert (summary["images"], summary["scored"], summary["failed"]) == (34, 30, 4)
    assert "error: 4 of 34 images have no scores" in captured.err


def test_former_option_names_work_with_a_note(
    archive: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lrclr.cli import main

    call = ["score", str(archive), "-b", str(bundle), "--json", "-o"]
    assert main([*call, str(tmp_path / "now"), "--runner", "local", "--engine", "onnxruntime"]) == 1
    assert "is now called" not in capsys.readouterr().err
    assert main([*call, str(tmp_path / "first"), "--engine", "local", "--graph-engine", "onnxruntime"]) == 1
    stderr = capsys.readouterr().err
    assert "--engine local is now called --runner local" in stderr
    assert "--graph-engine onnxruntime is now called --engine onnxruntime" in stderr
    assert archives.rows(tmp_path / "first") == archives.rows(tmp_path / "now")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--runner", "onnxruntime"], "unknown runner 'onnxruntime'"),
        (["--runner", "local", "--engine", "ray"], "--runner local contradicts --engine ray"),
        (["--engine", "openvino", "--graph-engine", "openvino"], "--engine and --graph-engine are the same option"),
        (["--actors", "2"], "--actors is an option of --runner ray"),
        (["--runner", "ray", "--workers", "2"], "--workers is an option of --runner local"),
        (["--batch-size", "5000"], "a batch of 5000 is too large"),
        (["--alpha", "3"], "alpha is 3.0"),
    ],
)
def test_a_wrong_call_writes_nothing(
    arguments: list[str], message: str, archive: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lrclr.cli import main

    assert main(["score", str(archive), "-o", str(tmp_path / "out"), "-b", str(bundle), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("runner", ["local", "ray"])
def test_findings_that_the_network_cannot_judge_write_nothing(
    runner: str, archive: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lrclr.cli import main

    if runner == "ray":
        pytest.importorskip("ray")
    file = tmp_path / "own.toml"
    file.write_text('[[finding]]\nname = "Edema"\npositive = ["edema"]\nnegative = []\n', encoding="utf-8")
    call = ["score", str(archive), "-o", str(tmp_path / "out"), "-b", str(bundle), "--findings", str(file)]
    assert main([*call, "--runner", runner]) == 2
    assert f"{file}: the finding 'Edema' has no negative prompts" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_files_is_not_changed(archive: Path, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(LrclrError, match=r"did not write all of it \(thesis\.txt\)"):
        score(archive, tmp_path, archives.options(bundle))
    assert (tmp_path / "thesis.txt").read_text(encoding="utf-8") == "mine"
