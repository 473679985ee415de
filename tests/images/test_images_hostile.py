"""Damaged, truncated and malicious files give one kind of error quickly and leave the process unchanged."""

from __future__ import annotations

import struct
import time
import tracemalloc
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from lrclr.errors import ImageError, ImageLimitError, LrclrError
from lrclr.images import ReadLimits, read_image, read_reduced
from lrclr.preprocessing import PreprocessSpec
from tests.raster_files import encode, png_chunk

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from tests.images.conftest import MakeDicom


# So small that even these pictures are read at a lower resolution.
SMALL = PreprocessSpec.clip(2)


def picture() -> NDArray[np.uint8]:
    rows, columns = np.mgrid[:31, :23]
    noise = np.random.default_rng(5).integers(0, 40, (31, 23))
    pixels: NDArray[np.uint8] = (100 + 80 * np.sin(rows / 5) * np.cos(columns / 4) + noise).astype(np.uint8)
    return pixels


def rasters() -> dict[str, bytes]:
    grey, exif = Image.fromarray(picture()), Image.Exif()
    exif[0x0112] = 6
    deep = Image.fromarray(picture().astype(np.uint16) * 250)
    return {
        "png": encode(grey, "PNG"),
        "png palette": encode(grey.convert("P"), "PNG", transparency=3),
        "png deep": encode(deep, "PNG"),
        "png frames": encode(grey, "PNG", save_all=True, append_images=[grey.rotate(180)]),
        "jpeg": encode(grey, "JPEG", exif=exif),
        "jpeg progressive": encode(grey.convert("RGB"), "JPEG", progressive=True),
        "tiff": encode(grey, "TIFF"),
        "tiff deep": encode(deep, "TIFF", exif=exif),
        "tiff frames": encode(grey, "TIFF", save_all=True, append_images=[grey]),
        "tiff deflate": encode(deep, "TIFF", compression="tiff_deflate"),
        "tiff lzw": encode(grey.convert("RGB"), "TIFF", compression="tiff_lzw"),
        "tiff jpeg": encode(grey, "TIFF", compression="jpeg"),
        "tiff packbits": encode(grey.convert("1"), "TIFF", compression="packbits"),
    }


RASTERS = rasters()


def mutate(data: bytes, changes: list[tuple[float, int, bytes]]) -> bytes:
    """Apply changes, each at a relative position: replace, remove or insert bytes, or cut the rest off."""
    mutated = bytearray(data)
    for place, kind, piece in changes:
        at = int(place * len(mutated))
        if kind == 0:
            mutated[at : at + len(piece)] = piece
        elif kind == 1:
            del mutated[at : at + len(piece)]
        elif kind == 2:
            mutated[at:at] = piece
        else:
            del mutated[at:]
    return bytes(mutated)


CHANGES = st.lists(
    st.tuples(st.floats(0, 1), st.sampled_from([0, 0, 0, 1, 2, 3]), st.binary(min_size=1, max_size=6)),
    min_size=1,
    max_size=4,
)


def read_or_refuse(data: bytes, frame: int | None = None) -> None:
    """Any data must give a picture or one of lrclr's errors with one line, and quickly."""
    try:
        read_reduced(data, SMALL, frame=frame, limits=ReadLimits(max_pixels=10**6))
    except LrclrError as error:
        assert str(error)  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017
    try:
        pixels = read_image(data, frame=frame, limits=ReadLimits(max_pixels=10**6))
    except LrclrError as error:
        assert str(error)  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert pixels.dtype == np.uint8
        assert pixels.ndim == 2 or pixels.shape[2:] == (3,)


@given(st.binary(max_size=300))
@example(b"\x89PNG\r\n\x1a\n")
@example(b"\xff\xd8\xff")
@example(b"II*\x00\x08\x00\x00\x00\x00\x00")
@example(bytes(128) + b"DICM")
@example(b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 100")
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    read_or_refuse(data)


@given(
    st.sampled_from(
        [b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR", b"\xff\xd8\xff\xc0", b"II*\x00\x08\x00\x00\x00", b"MM\x00*"]
    ),
    st.binary(max_size=200),
)
def test_any_bytes_after_a_signature_are_read_or_refused(signature: bytes, data: bytes) -> None:
    read_or_refuse(signature + data)


@given(st.binary(max_size=200))
def test_any_bytes_after_a_dicom_preamble_are_read_or_refused(data: bytes) -> None:
    read_or_refuse(bytes(128) + b"DICM" + data)


@settings(max_examples=600)
@given(st.sampled_from(sorted(RASTERS)), CHANGES, st.sampled_from([None, 0, 1]))
def test_damaged_rasters_are_read_or_refused(
    name: str, changes: list[tuple[float, int, bytes]], frame: int | None
) -> None:
    read_or_refuse(mutate(RASTERS[name], changes), frame)


@settings(max_examples=300)
@given(
    st.sampled_from([ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian]),
    CHANGES,
    st.sampled_from([None, 0]),
)
def test_damaged_dicom_is_read_or_refused(
    make_dicom: MakeDicom, syntax: str, changes: list[tuple[float, int, bytes]], frame: int | None
) -> None:
    pixels = picture().astype(np.uint16) * 16
    data = make_dicom(pixels, syntax=syntax, BitsStored=12, WindowCenter=2000, WindowWidth=900, PixelPaddingValue=0)
    # Mostly in front of the pixels, where the structure of the file is.
    head = len(data) - pixels.nbytes
    read_or_refuse(mutate(data[:head], changes) + data[head:], frame)


COMPRESSED = [
    *("MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "SC_rgb_jpeg_gdcm.dcm", "SC_rgb_jpeg_dcmtk.dcm"),
    *("image_dfl.dcm", "SC_rgb_gdcm_KY.dcm"),
]


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(COMPRESSED), CHANGES)
def test_damaged_compressed_dicom_is_read_or_refused(
    bundled: Callable[[str], Path], name: str, changes: list[tuple[float, int, bytes]]
) -> None:
    read_or_refuse(mutate(bundled(name).read_bytes(), changes))


@pytest.mark.parametrize("name", sorted(RASTERS))
def test_a_truncated_raster_is_refused_or_complete(name: str) -> None:
    data = RASTERS[name]
    frame = 0 if "frames" in name else None
    whole = read_image(data, frame=frame)
    reduced = read_reduced(data, SMALL, frame=frame)
    refused = 0
    for length in range(0, len(data), max(1, len(data) // 150)):
        try:
            np.testing.assert_array_equal(read_image(data[:length], frame=frame), whole)
        except ImageError:
            refused += 1
        try:
            np.testing.assert_array_equal(read_reduced(data[:length], SMALL, frame=frame).pixels, reduced.pixels)
        except ImageError:
            refused += 1
    assert refused > 40


@pytest.mark.parametrize(
    "name", [*COMPRESSED, "MR_small.dcm", "MR_small_bigendian.dcm", "MR_small_jpeg_ls_lossless.dcm", "693_J2KI.dcm"]
)
def test_a_truncated_dicom_file_is_refused_or_complete(bundled: Callable[[str], Path], name: str) -> None:
    data = bundled(name).read_bytes()
    whole = read_image(data)
    reduced = read_reduced(data, SMALL)
    refused = 0
    for length in range(0, len(data), max(1, len(data) // 40)):
        try:
            np.testing.assert_array_equal(read_image(data[:length]), whole)
        except ImageError:
            refused += 1
        try:
            np.testing.assert_array_equal(read_reduced(data[:length], SMALL).pixels, reduced.pixels)
        except ImageError:
            refused += 1
    assert refused > 40


def bombs() -> dict[str, bytes]:
    size = struct.pack(">II", 100_000, 100_000)
    png = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", size + b"\x08\x02\x00\x00\x00")
    tags = [(256, 100_000), (257, 100_000), (258, 8), (259, 8), (262, 1), (273, 8), (277, 1), (278, 100_000), (279, 8)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    jpeg = encode(Image.fromarray(picture()), "JPEG").replace(
        b"\xff\xc0\x00\x0b\x08" + struct.pack(">HH", 31, 23), b"\xff\xc0\x00\x0b\x08" + struct.pack(">HH", 65000, 65000)
    )
    return {
        "png": png + png_chunk(b"IDAT", zlib.compress(bytes(10**5))) + png_chunk(b"IEND", b""),
        "tiff": b"II*\x00" + struct.pack("<I", 16) + bytes(8) + struct.pack("<H", len(tags)) + entries + bytes(4),
        "jpeg": jpeg,
    }


@pytest.mark.parametrize("name", ["png", "tiff", "jpeg"])
def test_a_huge_picture_is_refused_before_it_is_decoded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = bombs()[name]

    def fail(_: object) -> None:
        # `read_image` turns it into an ImageError, but not into the expected ImageLimitError.
        raise AssertionError("the picture is decoded")

    for decoder in (PngImageFile, TiffImageFile, Image.Image):
        monkeypatch.setattr(decoder, "load", fail)
    tracemalloc.start()
    started = time.process_time()
    with pytest.raises(ImageLimitError, match="more than the limit of 100000000 pixels"):
        read_image(data)
    with pytest.raises(ImageLimitError, match="more than the limit of 100000000 pixels"):
        read_reduced(data, SMALL)
    took, (_, peak) = time.process_time() - started, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert took < 1
    assert peak < 10 * 2**20


def test_the_limits_are_those_of_lrclr_and_not_of_pillow() -> None:
    before = Image.MAX_IMAGE_PIXELS
    assert before is not None
    side = int(before**0.5) + 40
    data = encode(Image.new("1", (side, side), 1), "PNG", compress_level=1)
    assert read_image(data).shape == (side, side)
    assert before == Image.MAX_IMAGE_PIXELS


def test_a_deflated_tiff_beyond_pillows_limit_is_a_limit_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ImageLimitError):
        read_image(RASTERS["tiff deflate"])


def test_a_memory_error_becomes_a_limit_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhaust(_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(PngImageFile, "load_prepare", exhaust)
    with pytest.raises(ImageLimitError, match="memory"):
        read_image(RASTERS["png"])


def test_an_interrupt_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(PngImageFile, "load_prepare", interrupt)
    with pytest.raises(KeyboardInterrupt):
        read_image(RASTERS["png"])


def test_odd_files_give_no_warnings_and_filters_are_unchanged(make_dicom: MakeDicom) -> None:
    # pydicom warns about both files. The test suite turns warnings into errors, so this test can fail.
    odd = make_dicom(picture(), PixelData=picture().tobytes() + bytes(101), NumberOfFrames=0)
    before = list(warnings.filters)
    np.testing.assert_array_equal(read_image(odd), read_image(make_dicom(picture())))
    assert list(warnings.filters) == before
    with pytest.warns(UserWarning, match="mine"):
        warnings.warn("mine", stacklevel=1)


def test_many_threads_can_read_at_the_same_time(make_dicom: MakeDicom, bundled: Callable[[str], Path]) -> None:
    odd = make_dicom(picture(), PixelData=picture().tobytes() + bytes(101), NumberOfFrames=0)
    sources = [odd, RASTERS["png deep"], RASTERS["jpeg"], bundled("MR_small_RLE.dcm").read_bytes(), b"no image"]

    def read(source: bytes) -> NDArray[np.uint8] | None:
        try:
            return read_image(source)
        except ImageError:
            return None

    expected = [read(source) for source in sources]
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(read, sources * 40))
    for number, result in enumerate(results):
        np.testing.assert_array_equal(result, expected[number % len(sources)])
    assert list(warnings.filters) == before
