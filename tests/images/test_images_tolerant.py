"""DICOM files that violate the standard but contain a picture are read, with a remark."""

from __future__ import annotations

import io
import struct
import tempfile
import warnings
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gdcm
import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataelem import RawDataElement
from pydicom.encaps import generate_frames
from pydicom.tag import Tag
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from lrclr.errors import ImageError
from lrclr.images import read_image, read_reduced
from lrclr.preprocessing import PreprocessSpec
from lrclr.samples import sample_paths
from tests.images.conftest import _make, read_whole
from tests.images.test_images_dicom import compressed, lossless_jpeg, with_change, with_frame

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


SYNTAX = "TransferSyntaxUID does not match the pixel data and is ignored"
SMALL = PreprocessSpec.clip(4)


def ignored(keyword: str) -> str:
    return f"{keyword} is not valid and is ignored"


def frame_of(data: bytes) -> bytes:
    frame: bytes = next(generate_frames(pydicom.dcmread(io.BytesIO(data)).PixelData, number_of_frames=1))
    return frame


def with_raw(data: bytes, keyword: str, vr: str, value: bytes) -> bytes:
    """Write an attribute with any VR and any bytes."""
    tag = Tag(keyword)
    value += b" " * (len(value) % 2)
    dataset = pydicom.dcmread(io.BytesIO(data))
    if keyword in dataset:
        del dataset[keyword]
    elements = {**dataset._dict, tag: RawDataElement(tag, vr, len(value), value, 0, False, True)}
    dataset._dict.clear()
    dataset._dict.update(sorted(elements.items()))
    stream = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):
        dataset.save_as(stream, enforce_file_format=True)
    written = stream.getvalue()
    assert value in written
    return written


# Optional attributes that affect the picture, and their values in a good file.
GOOD: dict[str, Any] = {
    "WindowCenter": 1800,
    "WindowWidth": 2500,
    "VOILUTFunction": "SIGMOID",
    "RescaleSlope": 1,
    "RescaleIntercept": 7,
    "PixelPaddingValue": 4095,
    "PixelPaddingRangeLimit": 4000,
    "PresentationLUTShape": "IDENTITY",
    "NumberOfFrames": 1,
    "HighBit": 11,
}
TEXTS = [
    b"N/A",
    b"2047,5",
    b"abc",
    b"1e999",
    b"nan",
    b"-inf",
    b"12 mm",
    b"\xff\xfe\xfd",
    b"0x10",
    b"1\\N/A",
    b"--5",
    b"?" * 70,
]
# Attributes of radiographs that do not affect the picture.
UNUSED = [
    *("PixelAspectRatio", "ImagerPixelSpacing", "PixelSpacing", "LossyImageCompression", "LossyImageCompressionRatio"),
    *(
        "BurnedInAnnotation",
        "SmallestImagePixelValue",
        "LargestImagePixelValue",
        "RescaleType",
        "PixelIntensityRelationship",
    ),
    *(
        "PixelIntensityRelationshipSign",
        "WindowCenterWidthExplanation",
        "LossyImageCompressionMethod",
        "SpecificCharacterSet",
    ),
]


@cache
def good() -> bytes:
    rows, columns = np.mgrid[:24, :20]
    return _make((rows * 150 + columns * 31).astype(np.uint16), BitsStored=12, **GOOD)


def _sequence() -> bytes:
    return b"\xfe\xff\x00\xe0\x08\x00\x00\x00" + struct.pack("<HH2sH", 0x0008, 0x0060, b"CS", 0)


BAD = st.one_of(
    st.tuples(st.sampled_from(["DS", "CS", "LO", "IS", "UN", "UT", "OB", "ST"]), st.sampled_from(TEXTS)),
    st.tuples(st.sampled_from(["DS", "LO"]), st.text("abcXYZ,;:/ ", min_size=1, max_size=12).map(str.encode)),
    st.tuples(st.just("FD"), st.sampled_from([float("nan"), float("inf")]).map(lambda one: struct.pack("<d", one))),
    st.tuples(st.just("SQ"), st.just(_sequence())),
    st.tuples(st.just("OW"), st.just(bytes(range(1, 18)))),
)


@cache
def without(keyword: str) -> NDArray[np.uint8]:
    return read_image(with_change(good(), lambda dataset: delattr(dataset, keyword)))


@pytest.mark.parametrize("keyword", sorted(GOOD))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=BAD)
def test_an_invalid_optional_attribute_is_ignored(
    capfd: pytest.CaptureFixture[str], keyword: str, value: tuple[str, bytes]
) -> None:
    vr, content = value
    read = read_whole(with_raw(good(), keyword, vr, content))
    np.testing.assert_array_equal(read.pixels, without(keyword))
    # An empty value is allowed. It means that the value is unknown.
    assert (ignored(keyword) in read.remarks) == bool(content.strip())
    assert capfd.readouterr().err == ""


NO_MEANING: dict[str, list[Any]] = {
    "WindowCenter": ["1e999", "1e307"],
    "WindowWidth": [0, -5],
    "RescaleSlope": [0, [1, 2]],
    "RescaleIntercept": [[1, 2]],
    "PixelPaddingValue": [[1, 2]],
    "PixelPaddingRangeLimit": [[1, 2]],
    "NumberOfFrames": [0, -1],
    "HighBit": [10, 16, 999],
    "VOILUTFunction": ["CUBIC", ["LINEAR", "SIGMOID"]],
    "PresentationLUTShape": ["LIN OD", ["INVERSE", "INVERSE"]],
}


@pytest.mark.parametrize(("keyword", "value"), [(key, value) for key, values in NO_MEANING.items() for value in values])
def test_an_optional_attribute_out_of_range_is_ignored(keyword: str, value: Any) -> None:
    def change(dataset: Any) -> None:
        with warnings.catch_warnings(action="ignore"):
            setattr(dataset, keyword, value)

    read = read_whole(with_change(good(), change))
    np.testing.assert_array_equal(read.pixels, without(keyword))
    assert ignored(keyword) in read.remarks


@pytest.mark.parametrize("keyword", UNUSED)
@pytest.mark.parametrize("content", [b"N/A", b"\xff\xfe\xfd", b""])
def test_attributes_that_do_not_affect_the_picture_may_have_any_content(keyword: str, content: bytes) -> None:
    read = read_whole(with_raw(good(), keyword, "LO", content))
    np.testing.assert_array_equal(read.pixels, read_image(good()))
    assert read.remarks == ()


def test_a_valid_file_has_no_remarks(bundled: Callable[[str], Path]) -> None:
    assert read_whole(good()).remarks == ()
    for name in (
        "CT_small.dcm",
        "MR_small.dcm",
        "MR_small_RLE.dcm",
        "JPEG2000.dcm",
        "693_J2KI.dcm",
        "examples_palette.dcm",
    ):
        assert read_whole(bundled(name)).remarks == (), name
    for path in sample_paths("dicom"):
        assert read_whole(path).remarks == ()


def test_a_window_with_a_decimal_comma_is_ignored() -> None:
    ramp = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    data = with_raw(_make(ramp, BitsStored=12, WindowWidth=300), "WindowCenter", "DS", b"2047,5")
    read = read_whole(data)
    np.testing.assert_array_equal(read.pixels, np.rint(ramp / 4095 * 255))
    assert read.remarks == (
        ignored("WindowCenter"),
        "WindowCenter or WindowWidth is missing, and the other one is ignored",
    )


def test_unequal_numbers_of_window_centers_and_widths_are_paired_from_the_first() -> None:
    ramp = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    read = read_whole(_make(ramp, BitsStored=12, WindowCenter=[1000, 3000], WindowWidth=300))
    np.testing.assert_array_equal(
        read.pixels, read_image(_make(ramp, BitsStored=12, WindowCenter=1000, WindowWidth=300))
    )
    assert len(read.remarks) == 1


@pytest.mark.parametrize("written", ["monochrome1", " MONOCHROME1", "Monochrome 1", "MONOCHROME_1"])
def test_misspelt_photometric_interpretations_are_read(chest: NDArray[np.uint16], written: str) -> None:
    data = _make(chest, BitsStored=12, PhotometricInterpretation="MONOCHROME1")
    read = read_whole(with_raw(data, "PhotometricInterpretation", "CS", written.encode()))
    np.testing.assert_array_equal(read.pixels, read_image(data))
    assert len(read.remarks) == (written.strip() != "MONOCHROME1")


@pytest.mark.parametrize("samples", [None, 0, "N/A"])
@pytest.mark.parametrize("colour", [False, True])
def test_the_number_of_samples_follows_from_the_photometric_interpretation(colour: bool, samples: Any) -> None:
    pixels = np.arange(192, dtype=np.uint8).reshape((8, 8, 3) if colour else (8, 24))
    data = _make(pixels)
    if samples == "N/A":
        odd = with_raw(data, "SamplesPerPixel", "LO", b"N/A")
    else:
        odd = _make(pixels, SamplesPerPixel=samples)
    np.testing.assert_array_equal(read_image(odd), read_image(data))
    assert "SamplesPerPixel is missing and is taken from PhotometricInterpretation" in read_whole(odd).remarks


@pytest.mark.parametrize("value", [None, 7])
def test_an_invalid_planar_configuration_means_by_pixel(value: int | None) -> None:
    pixels = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
    np.testing.assert_array_equal(read_image(_make(pixels, PlanarConfiguration=value)), pixels)


REQUIRED = ["Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation"]


@pytest.mark.parametrize("keyword", REQUIRED)
@pytest.mark.parametrize("content", [b"N/A ", struct.pack("<2H", 3, 4), struct.pack("<d", 2.5)])
def test_the_error_for_a_required_attribute_names_it(keyword: str, content: bytes) -> None:
    vr = {4: "US", 8: "FD"}[len(content)] if content != b"N/A " else "LO"
    with pytest.raises(ImageError, match=f"the value of {keyword} is not valid"):
        read_image(with_raw(good(), keyword, vr, content))


def with_pixel_data(data: bytes, value: bytes, *, tail: bytes = b"") -> bytes:
    """Replace the pixel data of a compressed file. `tail` replaces their end."""
    place = data.rindex(b"\xe0\x7f\x10\x00OB\x00\x00\xff\xff\xff\xff") + 12
    return data[:place] + value + tail


def item(content: bytes) -> bytes:
    return b"\xfe\xff\x00\xe0" + struct.pack("<I", len(content)) + content


END = b"\xfe\xff\xdd\xe0" + bytes(4)
UNMARKED = "the end of PixelData is not marked"
NOISE = np.random.default_rng(3).integers(0, 4096, (48, 40)).astype(np.uint16)


@cache
def plain() -> bytes:
    return _make(NOISE, BitsStored=12, WindowCenter=2048, WindowWidth=4096)


@cache
def encoded(syntax: str) -> bytes:
    """`plain` in a transfer syntax. With lossy compression the picture differs."""
    if syntax == JPEGLosslessSV1:
        with tempfile.TemporaryDirectory() as folder:
            return lossless_jpeg(plain(), Path(folder), gdcm.TransferSyntax.JPEGLosslessProcess14_1)
    if syntax == JPEGBaseline8Bit:
        stream = io.BytesIO()
        Image.fromarray((NOISE >> 4).astype(np.uint8)).save(stream, "JPEG", quality=95)
        return with_frame(_make((NOISE >> 4).astype(np.uint8)), stream.getvalue(), syntax)
    return compressed(plain(), syntax)


LOSSLESS = [JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless, RLELossless]
CODECS = [JPEGBaseline8Bit, *LOSSLESS]


@pytest.mark.parametrize("tail", [b"", bytes(8), bytes(4), b"\xfc\xff\xfc\xffOB\x00\x00\x02\x00\x00\x00ab"])
@pytest.mark.parametrize("syntax", CODECS)
def test_pixel_data_without_an_end_marker_are_read(syntax: str, tail: bytes) -> None:
    frame = frame_of(encoded(syntax))
    read = read_whole(with_pixel_data(encoded(syntax), item(b"") + item(frame), tail=tail))
    np.testing.assert_array_equal(read.pixels, read_image(encoded(syntax)))
    assert read.remarks == (UNMARKED,)
    assert read_reduced(with_pixel_data(encoded(syntax), item(b"") + item(frame)), SMALL).remarks == (UNMARKED,)


@pytest.mark.parametrize("syntax", CODECS)
def test_truncated_pixel_data_are_refused(syntax: str) -> None:
    frame = frame_of(encoded(syntax))
    half = len(frame) // 4 * 2
    for value in (item(b"") + item(frame)[:half], item(b"") + item(frame[:half])):
        with pytest.raises(ImageError):
            read_image(with_pixel_data(encoded(syntax), value))


@pytest.mark.parametrize("table", [b"", struct.pack("<I", 999), struct.pack("<3I", 0, 5, 7), b"\xff" * 400, b"odd"])
@pytest.mark.parametrize("syntax", CODECS)
def test_the_offset_table_of_a_single_frame_is_ignored(syntax: str, table: bytes) -> None:
    frame = frame_of(encoded(syntax))
    half = len(frame) // 4 * 2
    for parts in (item(frame), item(frame[:half]) + item(frame[half:])):
        data = with_pixel_data(encoded(syntax), item(table) + parts, tail=END)
        np.testing.assert_array_equal(read_image(data), read_image(encoded(syntax)))
    np.testing.assert_array_equal(
        read_image(with_pixel_data(encoded(syntax), item(frame), tail=END)), read_image(encoded(syntax))
    )


def with_syntax(data: bytes, syntax: str | None) -> bytes:
    """Overwrite the transfer syntax of a file, which stays explicit little endian."""
    place = data.index(b"\x02\x00\x10\x00UI")
    length = struct.unpack_from("<H", data, place + 6)[0]
    element = b""
    if syntax is not None:
        value = syntax.encode() + b"\0" * (len(syntax) % 2)
        element = data[place : place + 6] + struct.pack("<H", len(value)) + value
    group = data.index(b"\x02\x00\x00\x00UL\x04\x00") + 8
    before = struct.unpack_from("<I", data, group)[0]
    changed = struct.pack("<I", before - 8 - length + len(element))
    return data[:group] + changed + data[group + 4 : place] + element + data[place + 8 + length :]


MISSPELT = [None, "", "1.2.840.10008.1.2.4.", "N/A", "1.2.840.10008.1.2.4.999"]


MISSPELT = [None, "", "1.2.840.10008.1.2.4.", "N/A", "1.2.840.10008.1.2.4.999"]


@pytest.mark.parametrize("declared", [*CODECS, ExplicitVRLittleEndian, *MISSPELT])
@pytest.mark.parametrize("syntax", [*CODECS, ExplicitVRLittleEndian])
def test_the_compression_is_recognised_from_the_pixel_data(syntax: str, declared: str | None) -> None:
    data = plain() if syntax == ExplicitVRLittleEndian else encoded(syntax)
    read = read_whole(with_syntax(data, declared))
    np.testing.assert_array_equal(read.pixels, read_image(data))
    same = declared == syntax or (not declared and syntax == ExplicitVRLittleEndian)
    assert read.remarks == (() if same else (SYNTAX,))


def test_an_implicit_file_with_a_misspelt_transfer_syntax_is_read(chest: NDArray[np.uint16]) -> None:
    data = _make(chest, syntax=ImplicitVRLittleEndian)
    np.testing.assert_array_equal(read_image(with_syntax(data, "1.2.840.10008.1.2.l")), read_image(data))


@pytest.mark.parametrize("declared", ["1.2.840.113619.5.2", "1.2.840.10008.1.2.4.100"])
def test_a_valid_but_unknown_transfer_syntax_is_refused(declared: str) -> None:
    with pytest.raises(ImageError, match=r"transfer syntax .* is not supported"):
        read_image(with_syntax(plain(), declared))


@pytest.mark.parametrize(
    ("syntax", "signed"),
    [
        *((JPEGBaseline8Bit, 0), (JPEGBaseline8Bit, 1), (JPEGLosslessSV1, 0), (JPEGLosslessSV1, 1)),
        *((JPEGLSLossless, 0), (JPEG2000Lossless, 0)),
    ],
)
def test_8_bit_samples_in_16_allocated_bits_are_read(syntax: str, signed: int) -> None:
    narrow = _make((NOISE >> 4).astype(np.uint8))
    if syntax == JPEGBaseline8Bit:
        data = encoded(syntax)
    elif syntax == JPEGLosslessSV1:
        with tempfile.TemporaryDirectory() as folder:
            data = lossless_jpeg(narrow, Path(folder), gdcm.TransferSyntax.JPEGLosslessProcess14_1)
    else:
        data = compressed(narrow, syntax)

    def widen(dataset: Any) -> None:
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
        dataset.PixelRepresentation = signed
        dataset.WindowCenter, dataset.WindowWidth = 128, 256

    expected = read_image(with_change(data, lambda dataset: dataset.update({"WindowCenter": 128, "WindowWidth": 256})))
    np.testing.assert_array_equal(read_image(with_change(data, widen)), expected)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, *LOSSLESS])
@pytest.mark.parametrize("high_bit", [11, 13, 15])
@pytest.mark.parametrize("signed", [False, True])
def test_unstored_bits_are_masked_in_every_transfer_syntax(syntax: str, high_bit: int, signed: bool) -> None:
    values = NOISE.astype(np.int32) - (2048 if signed else 0)
    other = np.random.default_rng(4).integers(0, 65536, NOISE.shape)
    shift = high_bit - 11
    mask = 0x0FFF << shift
    packed = ((values << shift) & mask | other & ~mask & 0xFFFF).astype(np.uint16)
    window: dict[str, Any] = {"WindowCenter": 0 if signed else 2048, "WindowWidth": 4096}
    # Encoders use BitsStored, which is 16 until the file is compressed.
    data = _make(packed.view(np.int16) if signed else packed, **window)
    if syntax == JPEGLosslessSV1:
        with tempfile.TemporaryDirectory() as folder:
            data = lossless_jpeg(data, Path(folder), gdcm.TransferSyntax.JPEGLosslessProcess14_1)
    elif syntax != ExplicitVRLittleEndian:
        data = compressed(data, syntax)

    def narrow(dataset: Any) -> None:
        dataset.BitsStored, dataset.HighBit = 12, high_bit

    expected = read_image(_make(values.astype(np.int16 if signed else np.uint16), BitsStored=12, **window))
    np.testing.assert_array_equal(read_image(with_change(data, narrow)), expected)
    assert len(np.unique(expected)) > 200


@pytest.mark.parametrize("syntax", LOSSLESS)
def test_signed_values_keep_their_sign_in_every_transfer_syntax(syntax: str) -> None:
    signed = _make(NOISE.astype(np.int16) - 2048, BitsStored=12, WindowCenter=0, WindowWidth=4096)
    if syntax == JPEGLosslessSV1:
        with tempfile.TemporaryDirectory() as folder:
            data = lossless_jpeg(signed, Path(folder), gdcm.TransferSyntax.JPEGLosslessProcess14_1)
    else:
        data = compressed(signed, syntax)
    np.testing.assert_array_equal(read_image(data), read_image(signed))
