"""Sources of bytes: paths, file objects and bytes, and the errors if they cannot be read."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from lrclr.errors import ImageError, ImageLimitError, MissingExtraError, UsageError
from lrclr.images import ReadLimits, read_image

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

GREY: NDArray[np.uint8] = np.arange(35, dtype=np.uint8).reshape(5, 7) * 7


def png() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(GREY).save(stream, "PNG")
    return stream.getvalue()


def test_every_kind_of_source_gives_the_same_picture(tmp_path: Path) -> None:
    path = tmp_path / "scan.png"
    path.write_bytes(png())
    with path.open("rb") as file:
        sources: list[Any] = [path, str(path), png(), bytearray(png()), memoryview(png()), io.BytesIO(png()), file]
        for source in sources:
            np.testing.assert_array_equal(read_image(source), GREY)
        assert not file.closed


def test_a_file_object_is_read_from_its_position() -> None:
    stream = io.BytesIO(b"header" + png())
    stream.seek(6)
    np.testing.assert_array_equal(read_image(stream), GREY)


def test_a_stream_with_short_reads_is_read_completely() -> None:
    class Trickle(io.RawIOBase):
        def __init__(self) -> None:
            self.stream = io.BytesIO(png())

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            piece = self.stream.read(3)
            buffer[: len(piece)] = piece
            return len(piece)

    np.testing.assert_array_equal(read_image(Trickle()), GREY)  # type: ignore[arg-type]


def test_the_format_does_not_depend_on_the_name(tmp_path: Path) -> None:
    path = tmp_path / "scan.dcm"
    path.write_bytes(png())
    np.testing.assert_array_equal(read_image(path), GREY)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing.png", "no such file"),
        (".", "it is a folder"),
        ("pipe", "not a regular file"),
        ("scan.png/inside", "no such file"),
        ("loop", "loop"),
        ("a\0b", "file name is not valid"),
        ("x" * 300, "too long"),
    ],
)
def test_an_unreadable_path_is_refused(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "scan.png").write_bytes(png())
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(ImageError, match=words) as caught:
        read_image(f"{tmp_path}/{name}")
    assert not isinstance(caught.value, ImageLimitError)


def test_a_file_without_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "scan.png"
    path.write_bytes(png())

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "open", refuse)
    with pytest.raises(ImageError, match="permissions"):
        read_image(path)


def test_an_error_of_a_stream_becomes_an_image_error() -> None:
    class Failing(io.RawIOBase):
        def read(self, size: int = -1, /) -> bytes:
            raise OSError(5, "Input/output error")

    closed = io.BytesIO(png())
    closed.close()
    for source in (Failing(), closed):
        with pytest.raises(ImageError, match="file object cannot be read"):
            read_image(source)  # type: ignore[arg-type]


def test_a_source_that_gives_no_bytes_is_a_wrong_call() -> None:
    with pytest.raises(UsageError, match="binary mode"):
        read_image(io.StringIO("text"))  # type: ignore[arg-type]
    sources: list[Any] = [None, 5, [[1, 2]], object()]
    for source in sources:
        with pytest.raises(UsageError, match=type(source).__name__):
            read_image(source)


@pytest.mark.parametrize(
    "content",
    [
        b"GIF89a" + bytes(50),
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"hello",
        b"%PDF-1.7",
        b"BM" + bytes(60),
        b"\x00",
    ],
)
def test_unsupported_formats_are_refused(content: bytes) -> None:
    with pytest.raises(ImageError, match="cannot read the file as an image"):
        read_image(content)


def test_a_gif_is_refused_although_pillow_could_read_it() -> None:
    stream = io.BytesIO()
    Image.fromarray(GREY).save(stream, "GIF")
    with pytest.raises(ImageError, match="neither PNG, JPEG, TIFF nor DICOM"):
        read_image(stream.getvalue())


def test_an_empty_source_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    for source in (b"", tmp_path / "empty.png", io.BytesIO()):
        with pytest.raises(ImageError, match="empty"):
            read_image(source)


def test_too_many_bytes_are_refused_from_every_kind_of_source(tmp_path: Path) -> None:
    path = tmp_path / "scan.png"
    path.write_bytes(png())
    limits = ReadLimits(max_bytes=len(png()) - 1)
    wide = memoryview(png() + bytes(-len(png()) % 8)).cast("Q")
    for source in (path, png(), bytearray(png()), wide, io.BytesIO(png())):
        with pytest.raises(ImageLimitError, match="max_bytes"):
            read_image(source, limits=limits)
    np.testing.assert_array_equal(read_image(path, limits=ReadLimits(max_bytes=len(png()))), GREY)


def test_an_endless_stream_is_refused_early() -> None:
    class Endless(io.RawIOBase):
        given = 0

        def read(self, size: int = -1, /) -> bytes:
            self.given += size
            return bytes(size)

    stream = Endless()
    with pytest.raises(ImageLimitError, match="max_bytes"):
        read_image(stream, limits=ReadLimits(max_bytes=3 * 2**20))  # type: ignore[arg-type]
    assert stream.given <= 5 * 2**20


def test_a_large_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse.png"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ImageLimitError, match="the file is longer than"):
        read_image(path)


def test_importing_the_package_does_not_import_pydicom_or_torch() -> None:
    code = "import lrclr.images, sys; print([name for name in ('pydicom', 'gdcm', 'torch') if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_without_pydicom_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydicom", None)
    monkeypatch.setitem(sys.modules, "pydicom.pixels", None)
    with pytest.raises(MissingExtraError, match=r"pip install '\.\[dicom\]'"):
        read_image(bytes(128) + b"DICM" + bytes(100))
