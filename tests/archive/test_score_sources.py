"""Which files of a source are images.

The content decides, each file counts once, and other files are counted in the summary.
"""

from __future__ import annotations

import glob
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lrclr.archive import score

# Private: the order and kinds of a source's items are not visible in scored rows.
from lrclr.archive._source import open_source

# Private: no public function tells how often it ran.
from lrclr.bundle._content import check_files
from lrclr.cli import main
from lrclr.errors import LrclrError, UsageError
from lrclr.samples import SAMPLES
from tests import bundles
from tests.archive import archives

if TYPE_CHECKING:
    from lrclr.bundle import Manifest


@pytest.fixture
def cd(tmp_path: Path) -> Path:
    """A folder like the content of a DICOM CD, with a link to another folder and one to the folder itself."""
    folder, other = tmp_path / "cd", tmp_path / "other"
    (folder / "IMAGES").mkdir(parents=True)
    other.mkdir()
    for name in ("1.2.840.113619.2", "IM000001", "x.IMA"):
        shutil.copy(SAMPLES[0].path("dicom"), folder / "IMAGES" / name)
    bundles.radiograph(other / "late.png")
    (folder / "linked").symlink_to(other)
    for name in ("back", "back again"):
        (folder / name).symlink_to(folder)
    (folder / "README").write_text("Doe^Jane")
    (folder / "all.zip").write_bytes(b"PK\x03\x04")
    return folder


PARTS = ("**", "*", "a", "?", "[ab]*", ".*", "*.png", "b.png", ".h")
IMAGES = ["IMAGES/1.2.840.113619.2", "IMAGES/IM000001", "IMAGES/x.IMA", "linked/late.png"]


def test_every_image_has_a_row_and_other_files_are_counted(
    cd: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = score(cd, tmp_path / "out", archives.options(bundle))
    assert [(row["file"], row["status"]) for row in archives.rows(tmp_path / "out")] == [(f, "scored") for f in IMAGES]
    assert summary.to_dict()["passed_over"] == {"other": 1, "archive": 1, "repeated": 2}
    assert main(["score", str(cd), "-o", str(tmp_path / "out"), "-b", str(bundle)]) == 0
    stderr = capsys.readouterr().err
    assert "passed over: 1 × archives (zip and the like are not opened); 2 × files and folders reached again" in stderr
    assert "Doe" not in stderr
    assert main(["score", str(cd), "-o", str(tmp_path / "out"), "-b", str(bundle), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["passed_over"]["archive"] == 1


def test_a_bundle_is_hashed_once(cd: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = []

    def counted(path: Path, manifest: Manifest) -> None:
        hashed.append(path)
        check_files(path, manifest)

    monkeypatch.setattr("lrclr.bundle._bundle.check_files", counted)
    arguments = ["-b", bundle, "--findings", bundle / "findings.toml", "-o", tmp_path / "out", "--sr", tmp_path / "sr"]
    assert bundles.call("score", cd, *arguments).returncode == 2  # one image is a PNG, and gets no report
    assert [row["status"] for row in archives.rows(tmp_path / "out")] == ["scored"] * len(IMAGES)
    assert hashed == [bundle]


def test_predict_finds_the_same_images_as_score(cd: Path, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(cd), "-b", str(bundle), "--json"]) == 0
    captured = capsys.readouterr()
    assert [json.loads(line)["file"] for line in captured.out.splitlines()] == [str(cd / name) for name in IMAGES]
    assert "1 × other files" in captured.err


def test_a_pattern_gives_each_matching_file_once(cd: Path) -> None:
    every = open_source(str(cd / "**" / "*"))
    assert [item.name for item in every.items] == sorted([*IMAGES, "README", "all.zip"])
    assert every.passed_over["folder"] == 0
    named = open_source(str(cd / "**" / "*.png"))
    assert [item.name for item in named.items] == ["linked/late.png"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(st.sampled_from(PARTS), min_size=1, max_size=4))
def test_patterns_match_the_same_files_as_glob(tmp_path: Path, parts: list[str]) -> None:
    """The folders have no links."""
    for name in ("a/b.png", "a/a/c.png", "a/.h/d.png", "b.png", "b/a.png", ".h/a/e.png", "a/.f.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for last in ("*", "**"):
        pattern = str(tmp_path.joinpath(*parts, last))
        # glob also returns "b.png/" for "b.png/**".
        matches = [name for name in glob.glob(pattern, recursive=True) if not name.endswith("/")]  # noqa: PTH207
        expected = {name for name in matches if Path(name).is_file()}
        try:
            source = open_source(pattern)
        except UsageError:
            assert not expected
        else:
            assert {os.path.normpath(source.root / item.name) for item in source.items} == expected


def test_an_unreadable_folder_is_an_error(cd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refuse(path: str) -> Any:
        if path.endswith("IMAGES"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    for source in (cd, cd / "**" / "*.dcm", cd / "IM*" / "*"):
        with pytest.raises(LrclrError, match="IMAGES cannot be read: Permission denied"):
            open_source(source)


def test_folders_that_a_pattern_matches_are_counted(cd: Path) -> None:
    """The images inside such folders are not in the source."""
    loose = bundles.radiograph(cd / "loose.png")
    found = open_source(str(cd / "*"))
    assert [item.name for item in found.items] == ["README", "all.zip", loose.name]
    assert found.passed_over["folder"] == 2
    with pytest.raises(UsageError, match=r"holds no image: passed over: 1 × folders that match the pattern"):
        open_source(str(cd / "IM*"))


def test_a_dataset_with_an_unknown_column_is_refused(tmp_path: Path) -> None:
    """A misspelt ``frame`` column must not be ignored: other frames would be scored."""
    table = tmp_path / "rows.csv"
    table.write_text("image,split,Cyst,frame_no\na.png,test,1,0\nb.png,test,0,1\n")
    with pytest.raises(UsageError, match="unknown column 'frame_no'"):
        open_source(table, findings=["Cyst"])
    table.write_text("image,Cyst,ward\na.png,1,0\n")
    with pytest.raises(UsageError, match="unknown column 'ward'"):
        open_source(table, findings=["Cyst"])
    table.write_text("image,Cyst,label:ward\na.png,1,0\n")
    assert [item.name for item in open_source(table, findings=["cyst"]).items] == ["a.png"]


def test_frames_that_pandas_wrote_as_floats_are_read(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def source(*frames: float | None) -> Path:
        names = [f"{number}.png" for number in range(len(frames))]
        pq.write_table(pa.table({"file": names, "frame": pa.array(frames, pa.float64())}), tmp_path / "rows.parquet")
        return tmp_path / "rows.parquet"

    assert [item.frame for item in open_source(source(2.0, None, float("nan"))).items] == [2, None, None]
    for wrong in (0.5, -1.0, float("inf")):
        with pytest.raises(UsageError, match=r"row 2 .* is not a whole number"):
            open_source(source(0.0, wrong))


def test_a_column_of_sizes_is_not_taken_for_images(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    source = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"file": ["a.png", "b.png"], "bytes": [10**12, 5]}), source)
    with pytest.raises(
        UsageError, match="its column bytes is int64, not binary, and no file in its column file exists"
    ):
        open_source(source)
    bundles.radiograph(tmp_path / "b.png")
    assert open_source(source).container is None
    pq.write_table(pa.table({"file": ["a.png"], "bytes": pa.array([b"x"], pa.large_binary())}), source)
    assert open_source(source).container == source


def test_an_added_link_does_not_change_names(cd: Path) -> None:
    before = open_source(cd).items
    (cd / "0 first").symlink_to(cd / "IMAGES")
    (cd / "0 first.png").symlink_to(cd / "IMAGES" / "IM000001")
    assert open_source(cd).items == before
    for name in ("*", "*/*"):
        (cd / "link").unlink(missing_ok=True)
        pattern = str(cd / name)
        items = open_source(pattern).items
        (cd / "link").symlink_to(cd / "IMAGES")
        assert set(items) >= set(open_source(pattern).items) - {("README", None)}


@pytest.mark.parametrize("name", ["images.zip", "images.tar.gz", "images.TGZ"])
def test_an_archive_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PK\x03\x04")
    with pytest.raises(UsageError, match=r"is an archive\. Unpack it"):
        open_source(tmp_path / name)


def test_nothing_is_written_to_a_folder_that_is_refused(cd: Path, bundle: Path) -> None:
    before = sorted(cd.iterdir())
    with pytest.raises(UsageError, match="lrclr did not write all of it"):
        score(cd, cd, archives.options(bundle))
    assert sorted(cd.iterdir()) == before
