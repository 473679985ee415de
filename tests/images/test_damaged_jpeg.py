"""JPEG whose compressed data do not fill the picture is refused. libjpeg would fill it with grey, and say nothing."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

import gdcm
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import JPEGBaseline8Bit

from lrclr.errors import ImageError
from lrclr.images import read_image
from lrclr.samples import sample_paths
from tests.dicom_results.conformance import dcmtk
from tests.images.test_images_dicom import lossless_jpeg

if TYPE_CHECKING:
    from pathlib import Path

    from tests.images.conftest import MakeDicom

END = b"\xff\xd9"


def jpeg(pixels: np.ndarray[Any, Any], mode: str = "L", **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(stream, "JPEG", **options)
    return stream.getvalue()


@settings(max_examples=60)
@given(
    size=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    content=st.sampled_from(["noise", "black", "black from the middle on", "slope"]),
    mode=st.sampled_from(["L", "RGB", "CMYK"]),
    options=st.fixed_dictionaries(
        {"quality": st.integers(1, 100)},
        optional={
            "optimize": st.booleans(),
            "progressive": st.booleans(),
            "subsampling": st.integers(0, 2),
            "restart_marker_rows": st.integers(1, 3),
            "restart_marker_blocks": st.integers(1, 40),
        },
    ),
)
def test_whole_pictures_are_read(size: tuple[int, int], content: str, mode: str, options: dict[str, Any]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, size).astype(np.uint8)
    if content == "slope":
        pixels = np.add.outer(*map(np.arange, size)).astype(np.uint8)
    elif content != "noise":
        pixels[0 if content == "black" else size[0] // 2 :] = 0
    data = jpeg(pixels, mode, **options)
    with Image.open(io.BytesIO(data)) as image:
        np.testing.assert_array_equal(read_image(data), np.asarray(image.convert("L" if mode == "L" else "RGB")))


@pytest.mark.parametrize("empty", [False, True])
def test_missing_parts_between_restart_markers_are_refused(*, empty: bool) -> None:
    """libjpeg fills them with grey, and decodes the others."""
    with Image.open(sample_paths()[0]) as image:
        data = jpeg(np.asarray(image.convert("L").resize((256, 240))), restart_marker_rows=1)
    markers = [found.start() for found in re.finditer(rb"\xff[\xd0-\xd7]", data)]
    assert len(markers) == 29
    read_image(data)
    with pytest.raises(ImageError, match="parts of its compressed data are missing"):
        read_image(data[: markers[9] + 2 * empty] + data[markers[10] :])


def test_a_file_whose_rest_is_zeros_is_refused() -> None:
    """As after a download that was cut off. Zeros are codes, so that the picture is full before they end."""
    pixels = np.random.default_rng(0).normal(120, 6, (600, 600)).clip(0, 255).astype(np.uint8)
    data = jpeg(pixels, quality=100)
    for rest in (b"", END):
        with pytest.raises(ImageError, match="damaged"):
            read_image(data[:30_000] + bytes(len(data) - 30_000) + rest)


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("damage", ["an early end", "zeros", "noise", "a marker"])
@pytest.mark.parametrize("container", ["JPEG", "DICOM"])
def test_damaged_pictures_are_refused(container: str, damage: str, place: float, make_dicom: MakeDicom) -> None:
    with Image.open(sample_paths()[0]) as image:
        pixels = np.asarray(image.convert("L").resize((256, 240)))
    data = jpeg(pixels, quality=90)
    start = data.index(b"\xff\xda") + 20
    at = start + int(place * (len(data) - start - 1100))
    noise = np.random.default_rng(0).integers(0, 255, 1000).astype(np.uint8).tobytes()
    put = {"an early end": END, "zeros": bytes(1000), "noise": noise, "a marker": b"\xff\xe5"}[damage]
    data = data[:at] + put + (b"" if damage == "an early end" else data[at + len(put) :])
    if container == "DICOM":
        colours = {"PhotometricInterpretation": "MONOCHROME2", "PixelData": encapsulate([data])}
        data = make_dicom(pixels, syntax=JPEGBaseline8Bit, **colours)
    with pytest.raises(ImageError, match="damaged"):
        read_image(data)


def test_a_few_bytes_too_many_are_accepted() -> None:
    data = jpeg(np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8))
    for more in (b"\x12\x34", b"\xff\xff\xff", bytes(1000)):
        np.testing.assert_array_equal(read_image(data[:-2] + more + END), read_image(data))


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("predictor", range(1, 8))
def test_lossless_jpeg_with_any_predictor(predictor: int, bits: int, make_dicom: MakeDicom, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 2**bits, (70, 33)).astype(np.uint8 if bits == 8 else np.uint16)
    plain, packed = tmp_path / "plain.dcm", tmp_path / "packed.dcm"
    plain.write_bytes(make_dicom(pixels, BitsStored=bits))
    dcmtk("dcmcjpeg", "+el", "+sv", predictor, plain, packed)
    np.testing.assert_array_equal(read_image(packed), read_image(plain))


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("damage", ["an early end", "zeros"])
def test_damaged_lossless_jpeg_is_refused(damage: str, place: float, make_dicom: MakeDicom, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).normal(2000, 50, (200, 100)).astype(np.uint16)
    whole = lossless_jpeg(make_dicom(pixels, BitsStored=12), tmp_path, gdcm.TransferSyntax.JPEGLosslessProcess14_1)
    dataset = pydicom.dcmread(io.BytesIO(whole))
    data = get_frame(dataset.PixelData, 0, number_of_frames=1)
    at = int(place * len(data))
    ended = damage == "an early end"
    dataset.PixelData = encapsulate([data[:at] + (END if ended else bytes(200) + data[at + 200 :])])
    stream = io.BytesIO()
    dataset.save_as(stream)
    with pytest.raises(ImageError, match="damaged or truncated"):
        read_image(stream.getvalue())
