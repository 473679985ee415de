"""Rendering of a data set that is stopped and continued: pictures are kept, and the result has the same bytes."""

from __future__ import annotations

import errno
import json
import os
from typing import TYPE_CHECKING

import pytest

from benchmarks.phantom import make_dataset, rendering
from benchmarks.phantom.make_dataset import Settings
from benchmarks.phantom.picture import make_picture
from benchmarks.phantom.rendering import is_intact
from benchmarks.phantom.staging import kept_folder, resumed_directory, write_whole
from lrclr.errors import LrclrError, UsageError
from tests.benchmarks.phantom.bodies import made_up_body, tree, write_ct
from tests.benchmarks.phantom.killing import killed_amid

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.phantom import ct
    from benchmarks.phantom.picture import Picture, Split


@pytest.fixture(scope="module")
def body() -> ct.Phantom:
    return made_up_body()


def measured_facts(folder: Path) -> dict[str, int]:
    facts: dict[str, dict[str, int]] = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    return facts["measured"]


@pytest.mark.slow
def test_a_killed_run_is_continued(tmp_path: Path) -> None:
    source, whole, out = tmp_path / "ct", tmp_path / "whole", tmp_path / "sets/out"
    source.mkdir()
    write_ct(source)
    call = ["--splits", "test=24,external=12", "--size", "64", "--ct", str(source)]
    assert make_dataset.main([*call, "-o", str(whole)]) == 0

    work = killed_amid([*call, "-o", str(out), "--workers", "2"], out, after=5)
    done = sorted(work.glob("images/test/[!.]*.png"))
    # A power cut may leave a file with half of its content and one without content.
    done[0].write_bytes(done[0].read_bytes()[:-20])
    (work / "masks/test" / done[1].name).write_bytes(b"")
    (work / "images/test/.000023.png.4711").write_bytes(b"half")
    kept = {path.name: path.stat().st_ino for path in done[2:-2]}

    assert make_dataset.main([*call, "-o", str(out)]) == 0
    assert tree(out) == tree(whole)
    assert {name: (out / "images/test" / name).stat().st_ino for name in kept} == kept
    facts = measured_facts(out)
    assert facts["reused"] + facts["rendered"] == 36
    assert facts["rendered"] >= 2
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_a_full_disk_keeps_the_rendered_pictures(
    body: ct.Phantom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rendered: list[int] = []

    def counted(phantom: ct.Phantom, split: Split, seed: int, index: int, size: int) -> Picture:
        if len(rendered) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        rendered.append(index)
        return make_picture(phantom, split, seed, index, size)

    monkeypatch.setattr("benchmarks.phantom.rendering.make_picture", counted)
    monkeypatch.setattr("benchmarks.phantom.ct.load_phantom", lambda folder, spacing: body)
    write_ct(tmp_path)
    call = ["-o", str(tmp_path / "out"), "--ct", str(tmp_path), "--splits", "train=5", "--size", "64"]
    assert make_dataset.main(call) == 1
    answer = capsys.readouterr().err
    assert "No space left" in answer
    assert "the same command continues from there" in answer
    assert not (tmp_path / "out").exists()
    monkeypatch.undo()
    monkeypatch.setattr("benchmarks.phantom.ct.load_phantom", lambda folder, spacing: body)
    assert make_dataset.main(call) == 0
    assert measured_facts(tmp_path / "out")["reused"] == 3
    assert not kept_folder(tmp_path / "out").exists()


def stop_at_second_picture(body: ct.Phantom, folder: Path, settings: Settings) -> None:
    """Make a data set whose second picture fails with an error that the disk did not cause."""

    def failing(phantom: ct.Phantom, split: Split, seed: int, index: int, size: int) -> Picture:
        if index == 1:
            raise ZeroDivisionError
        return make_picture(phantom, split, seed, index, size)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmarks.phantom.rendering.make_picture", failing)
        with pytest.raises(ZeroDivisionError):
            make_dataset.make_dataset(body, settings, folder, ct_sha256={}, workers=1, overwrite=False)


@pytest.mark.parametrize(
    ("settings", "hashes", "other"),
    [
        (Settings({"test": 2}, 64, seed=4), {}, "settings differ: seed"),
        (Settings({"test": 3}, 64), {}, "settings differ: splits"),
        (Settings({"test": 2}, 48), {}, "settings differ: size"),
        (Settings({"test": 2}, 64), {"cxr.nii.gz": "1" * 64}, "settings differ: ct_sha256"),
    ],
)
def test_pictures_of_other_settings_are_not_reused(
    body: ct.Phantom, tmp_path: Path, settings: Settings, hashes: dict[str, str], other: str
) -> None:
    out, kept = tmp_path / "out", kept_folder(tmp_path / "out")
    stop_at_second_picture(body, out, Settings({"test": 2}, 64))
    before = tree(kept)
    with pytest.raises(UsageError, match=other):
        make_dataset.make_dataset(body, settings, out, ct_sha256=hashes, workers=1, overwrite=False)
    assert {name: before[name] for name in before if name != "place.txt"}.items() <= tree(kept).items()
    make_dataset.make_dataset(body, settings, out, ct_sha256=hashes, workers=1, overwrite=True)
    assert measured_facts(out)["reused"] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_pictures_of_another_generator_are_not_reused(
    body: ct.Phantom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at_second_picture(body, tmp_path / "out", Settings({"test": 2}, 64))
    monkeypatch.setattr(make_dataset, "GENERATOR", ("cases",))
    with pytest.raises(UsageError, match="settings differ: generator_sha256"):
        make_dataset.make_dataset(
            body, Settings({"test": 2}, 64), tmp_path / "out", ct_sha256={}, workers=1, overwrite=False
        )


def test_a_second_run_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with resumed_directory(out, {}, expected=(), overwrite=False) as work:
        write_whole(work / "a", b"a")
        with (
            pytest.raises(UsageError, match="another process is making"),
            resumed_directory(out, {}, expected=(), overwrite=False),
        ):
            pass
    assert tree(tmp_path) == {"out/a": b"a"}


def test_an_old_data_set_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for number in range(2):
        with resumed_directory(out, {"n": number}, expected=("a",), overwrite=True) as work:
            write_whole(work / "a", str(number).encode())
            assert tree(out) == ({"a": b"0"} if number else {})
    with (
        pytest.raises(UsageError, match="exists already"),
        resumed_directory(out, {}, expected=("a",), overwrite=False),
    ):
        pass
    assert tree(tmp_path) == {"out/a": b"1"}


@pytest.mark.parametrize("reason", [errno.EPERM, errno.ENOSPC])
def test_a_file_system_without_hard_links_is_supported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: int
) -> None:
    def refuse(source: object, target: object) -> None:
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr("benchmarks.phantom.staging.os.link", refuse)
    out = tmp_path / "out"
    if reason == errno.ENOSPC:
        with pytest.raises(LrclrError, match="could not be written"):
            finish(out)
        assert (kept_folder(out) / "work/b/a").read_bytes() == b"a"
        monkeypatch.undo()
    finish(out)
    assert tree(tmp_path) == {"out/b/a": b"a"}


def finish(out: Path) -> None:
    with resumed_directory(out, {}, expected=(), overwrite=False) as work:
        (work / "b").mkdir(exist_ok=True)
        write_whole(work / "b/a", b"a")


def test_an_incomplete_picture_is_rendered_again(body: ct.Phantom, tmp_path: Path) -> None:
    picture = make_picture(body, "train", 0, 0, 32)
    file, content = tmp_path / "a.png", rendering._png(picture.pixels)
    assert not is_intact(file, 32)
    write_whole(file, content)
    assert is_intact(file, 32)
    assert not is_intact(file, 64)
    for length in range(len(content)):
        file.write_bytes(content[:length])
        assert not is_intact(file, 32)
    for at in range(len(content)):
        file.write_bytes(content[:at] + bytes([content[at] ^ 16]) + content[at + 1 :])
        assert not is_intact(file, 32)
