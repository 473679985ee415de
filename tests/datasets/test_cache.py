"""The cache of pixels equals the result of preprocessing. An incomplete, outdated or damaged cache is an error."""

from __future__ import annotations

import os
import pickle
import resource
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from lrclr.datasets import PixelCache, Row, RowProblem
from lrclr.errors import ImageError, LrclrError, UsageError
from lrclr.images import read_image
from lrclr.preprocessing import PreprocessSpec, from_canvas, preprocess, to_canvas

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Picture = Callable[..., Path]

SPECS = {"clip": PreprocessSpec.clip(), "chexzero": PreprocessSpec.chexzero()}
SMALL = PreprocessSpec("clip", 16, (0.5,) * 3, (0.5,) * 3)


def rows_of(*paths: Path) -> list[Row]:
    return [Row(line, path) for line, path in enumerate(paths, start=2)]


@pytest.fixture
def rows(picture: Picture) -> list[Row]:
    return rows_of(*(picture(f"{n}.png") for n in range(5)))


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_cached_pixels_equal_preprocessing_bit_for_bit(tmp_path: Path, picture: Picture, spec: PreprocessSpec) -> None:
    shapes = [(300, 417), (31, 20, 3), (224, 224), (500, 90), (33, 44, 3)]
    paths = [picture(f"{n}.png", shape) for n, shape in enumerate(shapes)]
    grey = read_image(picture("grey.png", (90, 70)))
    Image.fromarray(np.repeat(grey[..., None], 3, axis=2)).save(tmp_path / "grey.png")
    rows = rows_of(*paths, tmp_path / "grey.png")
    cache = PixelCache.build(rows, spec, tmp_path / "cache", workers=2)
    assert len(cache) == 6
    for opened in (cache, PixelCache.open(tmp_path / "cache", rows, spec), pickle.loads(pickle.dumps(cache))):
        for i, row in enumerate(opened.kept(rows)):
            image = read_image(row.image)
            assert np.array_equal(from_canvas(opened.pixels(i), spec), preprocess(image, spec))
            assert opened.sizes(i) == image.shape[:2]
            assert not opened.pixels(i).flags.writeable
    # Grey is stored once, even if the file has three equal channels. Colour has three channels under clip.
    assert cache.pixels(0).ndim == cache.pixels(5).ndim == 2
    assert cache.pixels(1).ndim == (3 if spec.kind == "clip" else 2)
    side, coloured = cache.pixels(0).shape[0], 2 if spec.kind == "clip" else 0
    assert (tmp_path / "cache/pixels.bin").stat().st_size == side * side * (6 + 2 * coloured)


def test_the_two_stages_together_equal_preprocessing() -> None:
    image = np.random.default_rng(0).integers(0, 256, (70, 50, 3), dtype=np.uint8)
    for spec in SPECS.values():
        canvas = to_canvas(image, spec)
        assert canvas.dtype == np.uint8
        assert np.array_equal(from_canvas(canvas, spec), preprocess(image, spec))


def test_unreadable_images_are_left_out(tmp_path: Path, rows: list[Row]) -> None:
    rows[1].image.write_bytes(b"no picture")
    rows[3].image.unlink()
    cache = PixelCache.build(rows, SMALL, tmp_path / "cache")
    assert cache.positions.tolist() == [0, 2, 4]
    assert [row.line for row in cache.kept(rows)] == [2, 4, 6]
    assert [problem.line for problem in cache.read_errors] == [3, 5]
    assert "neither PNG" in cache.read_errors[0].text
    assert "there is no such file" in cache.read_errors[1].text
    assert not any(str(tmp_path) in problem.text for problem in cache.read_errors)
    assert np.array_equal(cache.pixels(1), to_canvas(read_image(rows[2].image), SMALL))


def test_a_cache_without_images_is_refused(tmp_path: Path, rows: list[Row]) -> None:
    with pytest.raises(UsageError, match="no images"):
        PixelCache.build([], SMALL, tmp_path / "cache")
    for row in rows:
        row.image.write_bytes(b"")
    with pytest.raises(ImageError, match="none of 5 images can be read: line 2"):
        PixelCache.build(rows, SMALL, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_an_outdated_cache_is_replaced_with_a_note(tmp_path: Path, rows: list[Row]) -> None:
    folder = tmp_path / "cache"
    notes: list[str] = []

    def build(rows: list[Row], spec: PreprocessSpec = SMALL) -> tuple[PixelCache, float]:
        cache = PixelCache.build(rows, spec, folder, on_note=notes.append)
        return cache, (folder / "pixels.bin").stat().st_ino

    first, inode = build(rows)
    assert build(rows)[1] == inode
    assert notes == []
    before = rows[0].image.stat()
    os.utime(rows[0].image, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    with pytest.raises(UsageError, match="is stale"):
        PixelCache.open(folder, rows, SMALL)
    for number, (again, spec) in enumerate(
        [(rows, SMALL), (rows[:4], SMALL), (rows[3::-1], SMALL), (rows[3::-1], SPECS["clip"])], start=1
    ):
        cache, new_inode = build(again, spec)
        assert len(cache) == len(again)
        assert len(notes) == number
        assert "stale" in notes[-1]
        assert new_inode != inode
        inode = new_inode
    # A reader that has the old cache open still reads the old content.
    assert np.array_equal(first.pixels(1), to_canvas(read_image(rows[1].image), SMALL))


def test_a_new_file_makes_the_cache_outdated(tmp_path: Path, picture: Picture, rows: list[Row]) -> None:
    late = [*rows, Row(9, tmp_path / "late.png")]
    assert PixelCache.build(late, SMALL, tmp_path / "cache").read_errors[0].line == 9
    picture("late.png")
    assert PixelCache.build(late, SMALL, tmp_path / "cache").read_errors == ()


@pytest.mark.parametrize("name", ["cache.json", "index.npy", "pixels.bin"])
@pytest.mark.parametrize("harm", ["cut", "empty", "gone"])
def test_a_damaged_cache_is_refused_and_built_again(tmp_path: Path, rows: list[Row], name: str, harm: str) -> None:
    folder = tmp_path / "cache"
    PixelCache.build(rows, SMALL, folder)
    file = folder / name
    if harm == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-1] if harm == "cut" and name != "cache.json" else b"")
    with pytest.raises(LrclrError, match=r"damaged|has no cache"):
        PixelCache.open(folder, rows, SMALL)
    assert len(PixelCache.build(rows, SMALL, folder)) == 5
    assert len(PixelCache.open(folder, rows, SMALL)) == 5


def test_a_folder_with_other_files_is_not_replaced(tmp_path: Path, rows: list[Row]) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="did not write"):
        PixelCache.build(rows, SMALL, tmp_path / "cache")
    assert (tmp_path / "cache/thesis.txt").read_text() == "mine"


def test_a_full_disk_leaves_no_files(tmp_path: Path, rows: list[Row], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cache"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400, hard))
    try:
        with pytest.raises(LrclrError, match="could not be written"):
            PixelCache.build(rows, SMALL, folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"{n}.png" for n in range(5)]
    huge = PreprocessSpec("clip", 4096, (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(LrclrError, match=r"does not fit .* MB are free"):
        PixelCache.build(rows * 50_000, huge, folder)
    assert not folder.exists()


def test_an_interrupt_leaves_no_files(tmp_path: Path, rows: list[Row]) -> None:
    def interrupt(done: int, total: int, rate: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        PixelCache.build(rows, SMALL, tmp_path / "cache", on_progress=interrupt)
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"{n}.png" for n in range(5)]


def test_progress_and_workers(tmp_path: Path, picture: Picture) -> None:
    rows = rows_of(*(picture(f"{n}.png", (8 + n, 9)) for n in range(40)))
    progress: list[tuple[int, int, float]] = []
    for workers in (1, 3):
        cache = PixelCache.build(
            rows, SMALL, tmp_path / f"cache{workers}", workers=workers, on_progress=lambda *now: progress.append(now)
        )
        assert [cache.sizes(i) for i in range(40)] == [(8 + n, 9) for n in range(40)]
    assert progress[-1][:2] == (40, 40)
    assert progress[-1][2] > 0
    with pytest.raises(UsageError, match="at least one worker"):
        PixelCache.build(rows, SMALL, tmp_path / "none", workers=-1)


def test_frames_of_one_file(tmp_path: Path) -> None:
    frames = [Image.new("L", (9, 7), level) for level in (10, 200)]
    frames[0].save(tmp_path / "two.tif", save_all=True, append_images=frames[1:])
    rows = [Row(2, tmp_path / "two.tif", frame=1), Row(3, tmp_path / "two.tif", frame=0), Row(4, tmp_path / "two.tif")]
    cache = PixelCache.build(rows, SMALL, tmp_path / "cache")
    assert [int(cache.pixels(i).max()) for i in range(2)] == [200, 10]
    assert isinstance(cache.read_errors[0], RowProblem)
    assert cache.read_errors[0].line == 4
