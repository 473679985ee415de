"""DICOM files: transfer syntaxes, frames, missing attributes, and errors without patient data."""

from __future__ import annotations

import base64
import io
import os
import struct
import subprocess
import sys
import traceback
import tracemalloc
import zlib
from typing import TYPE_CHECKING, Any

import gdcm
import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels import get_decoder
from pydicom.uid import (
    HTJ2K,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from lrclr.errors import ImageError, ImageLimitError, MissingExtraError
from lrclr.images import ReadLimits, read_image

# Private: whether a frame is decoded at all cannot be seen from outside.
from lrclr.images._dicom_decode import decode_frame
from lrclr.samples import SAMPLES
from tests.images.conftest import read_whole

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from tests.images.conftest import MakeDicom

# The 16 by 16 pixels `251 * row + 13 * column` as a reversible HTJ2K codestream of 16 bits, written by OpenJPH.
HTJ2K_FRAME = base64.b85decode(
    "|4;u>04YEK0000G0000G00000000000000G0000G0000000000009pH0sl|{2mk^A000XAQUDA90ssL31q1{@0smY86Cj9?kdTm&kdTm&kdTmwh=~7"
    "W02crOPjF>!N>E53R%LP^FfKASE;BCwkN^q*00000egFaglfVEbk@f`#bN~Rr0206e69DW12Xp}H@dJl+0KfnfKmZefH2naAbO7)Oj{w6|0Kfnh5C8>"
    "W7-RgZZ~}DzXhZ`IH2%O+f$X*bzyK>C02Yvlh=_>iz^A9D!gv7m>FMd|>FMeHj9`2AF@fy50RPz"
)


def with_change(data: bytes, change: Callable[[Any], None]) -> bytes:
    dataset = pydicom.dcmread(io.BytesIO(data))
    change(dataset)
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def compressed(data: bytes, syntax: str) -> bytes:
    return with_change(data, lambda dataset: dataset.compress(syntax, generate_instance_uid=False))


def with_frame(data: bytes, frame: bytes, syntax: str, **attributes: Any) -> bytes:
    """Replace the pixel data by one compressed frame."""

    def change(dataset: Any) -> None:
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.PixelData = encapsulate([frame])
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True
        for keyword, value in attributes.items():
            setattr(dataset, keyword, value)

    return with_change(data, change)


def lossless_jpeg(data: bytes, tmp_path: Path, process: int) -> bytes:
    (tmp_path / "plain.dcm").write_bytes(data)
    reader = gdcm.ImageReader()
    reader.SetFileName(str(tmp_path / "plain.dcm"))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(process))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(tmp_path / "lossless.dcm"))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return (tmp_path / "lossless.dcm").read_bytes()


@pytest.mark.parametrize("preamble", [True, False])
@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_uncompressed_syntaxes_with_and_without_a_preamble(
    make_dicom: MakeDicom, chest: NDArray[np.uint16], syntax: str, preamble: bool
) -> None:
    expected = read_image(make_dicom(chest, BitsStored=12))
    np.testing.assert_array_equal(expected, np.rint(chest / 4095 * 255))
    np.testing.assert_array_equal(
        read_image(make_dicom(chest, BitsStored=12, syntax=syntax, preamble=preamble)), expected
    )


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_lossless_syntaxes_equal_uncompressed_ones(
    make_dicom: MakeDicom, chest: NDArray[np.uint16], syntax: str, signed: bool
) -> None:
    pixels = chest.astype(np.int16) - 2000 if signed else chest
    plain = make_dicom(pixels, BitsStored=12)
    data = compressed(plain, syntax)
    assert pydicom.dcmread(io.BytesIO(data)).file_meta.TransferSyntaxUID == syntax
    np.testing.assert_array_equal(read_image(data), read_image(plain))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16])
@pytest.mark.parametrize(
    "process", [gdcm.TransferSyntax.JPEGLosslessProcess14_1, gdcm.TransferSyntax.JPEGLosslessProcess14]
)
def test_lossless_jpeg_equals_uncompressed(
    make_dicom: MakeDicom, chest: NDArray[np.uint16], tmp_path: Path, process: int, dtype: type[np.integer]
) -> None:
    pixels = (chest >> 4).astype(dtype) if dtype == np.uint8 else chest.astype(dtype)
    plain = make_dicom(pixels)
    data = lossless_jpeg(plain, tmp_path, process)
    assert pydicom.dcmread(io.BytesIO(data)).file_meta.TransferSyntaxUID.is_compressed
    np.testing.assert_array_equal(read_image(data), read_image(plain))


@pytest.mark.parametrize("syntax", [HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K])
def test_high_throughput_jpeg_2000_equals_uncompressed(make_dicom: MakeDicom, syntax: str) -> None:
    rows, columns = np.mgrid[:16, :16]
    plain = make_dicom((251 * rows + 13 * columns).astype(np.uint16))
    np.testing.assert_array_equal(read_image(with_frame(plain, HTJ2K_FRAME, syntax)), read_image(plain))


@pytest.mark.parametrize(
    "name",
    [
        *("MR_small_RLE.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm", "MR_small_expb.dcm"),
        *("MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm", "MR_small_padded.dcm"),
    ],
)
def test_files_of_the_same_picture_agree(bundled: Callable[[str], Path], name: str) -> None:
    np.testing.assert_array_equal(read_image(bundled(name)), read_image(bundled("MR_small.dcm")))


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        *(("SC_rgb_rle.dcm", 0), ("SC_rgb_rle_16bit.dcm", 0), ("SC_rgb_rle_32bit.dcm", 0)),
        *(("SC_rgb_jpeg_gdcm.dcm", 0), ("SC_rgb_gdcm_KY.dcm", 0), ("SC_ybr_full_422_uncompressed.dcm", 6)),
        *(("SC_rgb_dcmtk_+eb+cr.dcm", 6), ("SC_rgb_dcmtk_+eb+cy+n1.dcm", 6), ("SC_rgb_dcmtk_+eb+cy+np.dcm", 6)),
        *(("SC_rgb_jpeg_dcmtk.dcm", 6), ("SC_rgb_jls_lossy_line.dcm", 6), ("SC_rgb_jls_lossy_sample.dcm", 6)),
    ],
)
def test_colour_bars_have_their_colours(bundled: Callable[[str], Path], name: str, tolerance: int) -> None:
    colours = {
        5: (255, 0, 0),
        15: (255, 128, 128),
        25: (0, 255, 0),
        35: (128, 255, 128),
        45: (0, 0, 255),
        55: (128, 128, 255),
        65: (0, 0, 0),
        75: (64, 64, 64),
        85: (192, 192, 192),
        95: (255, 255, 255),
    }
    picture = read_image(bundled(name))
    for row, colour in colours.items():
        assert abs(picture[row, 50].astype(int) - colour).max() <= tolerance, (name, row)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        *(("CT_small.dcm", (128, 128)), ("image_dfl.dcm", (512, 512)), ("693_J2KI.dcm", (512, 512))),
        *(("J2K_pixelrep_mismatch.dcm", (512, 512)), ("liver_1frame.dcm", (512, 512)), ("JPEG2000.dcm", (1024, 256))),
        *(("examples_palette.dcm", (350, 800, 3)), ("examples_overlay.dcm", (300, 484))),
        *(("JPEGLSNearLossless_16.dcm", (50, 10)), ("GDCMJ2K_TextGBR.dcm", (400, 400, 3))),
    ],
)
def test_pydicoms_files_are_read_with_contrast(
    bundled: Callable[[str], Path], name: str, shape: tuple[int, ...]
) -> None:
    picture = read_image(bundled(name))
    assert picture.shape == shape
    assert int(picture.max()) - int(picture.min()) > 200


def test_a_deflated_file_equals_its_inflated_form(bundled: Callable[[str], Path]) -> None:
    dataset = pydicom.dcmread(bundled("image_dfl.dcm"))
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    np.testing.assert_array_equal(read_image(bundled("image_dfl.dcm")), read_image(stream.getvalue()))


@pytest.mark.parametrize("name", ["JPGExtended.dcm", "JPEG-lossy.dcm"])
def test_12_bit_lossy_jpeg_is_refused_with_advice(bundled: Callable[[str], Path], name: str) -> None:
    with pytest.raises(ImageError, match=r"12-bit lossy JPEG.*another transfer syntax"):
        read_image(bundled(name))


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless])
def test_frames_are_chosen_by_number(make_dicom: MakeDicom, chest: NDArray[np.uint16], syntax: str) -> None:
    frames = np.stack([chest, chest[::-1], chest[:, ::-1]])
    data = make_dicom(frames, BitsStored=12, NumberOfFrames=3)
    if syntax != ExplicitVRLittleEndian:
        data = compressed(data, syntax)
    with pytest.raises(ImageError, match=r"the DICOM file has 3 frames.*0 to 2 .--frame"):
        read_image(data)
    for number in range(3):
        np.testing.assert_array_equal(read_image(data, frame=number), np.rint(frames[number] / 4095 * 255))
    with pytest.raises(ImageError, match="frame 3 does not exist"):
        read_image(data, frame=3)


def test_a_single_frame_is_frame_0(make_dicom: MakeDicom, chest: NDArray[np.uint16]) -> None:
    data = make_dicom(chest)
    np.testing.assert_array_equal(read_image(data, frame=0), read_image(data))
    with pytest.raises(ImageError, match="frame 1 does not exist: the DICOM file has 1"):
        read_image(data, frame=1)


@pytest.mark.parametrize("name", ["test-SR.dcm", "rtplan.dcm", "waveform_ecg.dcm"])
def test_objects_without_pixels_are_refused_as_such(bundled: Callable[[str], Path], name: str) -> None:
    with pytest.raises(ImageError, match=r"holds no image.*report"):
        read_image(bundled(name))


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"Rows": None}, "lacks Rows"),
        (
            {"PhotometricInterpretation": None, "BitsStored": None, "HighBit": 15},
            "PhotometricInterpretation, BitsStored",
        ),
        ({"PixelData": None}, "holds no image"),
        ({"BitsAllocated": 12}, "12 bits allocated"),
        ({"BitsAllocated": 64}, "64 bits allocated"),
        ({"BitsStored": 17}, "17 bits stored"),
        ({"BitsStored": 0, "HighBit": 15}, "0 bits stored"),
        ({"PhotometricInterpretation": "HSV"}, "photometric interpretation is not supported"),
        ({"PhotometricInterpretation": "RGB"}, "1 samples per pixel contradict"),
        ({"SamplesPerPixel": 3}, "3 samples per pixel contradict"),
        ({"Rows": 0}, "empty"),
        (
            {"Rows": 16, "SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PixelRepresentation": 1},
            "signed and floating-point colour",
        ),
        ({"NumberOfFrames": 2}, "2 frames"),
    ],
)
def test_invalid_attributes_are_refused(
    make_dicom: MakeDicom, chest: NDArray[np.uint16], attributes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ImageError, match=words):
        read_image(make_dicom(chest, **attributes))


def test_short_pixel_data_are_refused(make_dicom: MakeDicom, chest: NDArray[np.uint16]) -> None:
    data = make_dicom(chest, PixelData=chest.tobytes()[:-2])
    with pytest.raises(ImageError, match=r"truncated.*3838 bytes long, and 3840 are needed"):
        read_image(data)
    with pytest.raises(ImageError, match="are needed for 2 frame"):
        read_image(make_dicom(chest, NumberOfFrames=2), frame=0)


@pytest.mark.parametrize("name", ["MR_truncated.dcm", "rtplan_truncated.dcm"])
def test_pydicoms_damaged_files_are_refused(bundled: Callable[[str], Path], name: str) -> None:
    with pytest.raises(ImageError):
        read_image(bundled(name))


def test_an_unsupported_transfer_syntax_is_refused(make_dicom: MakeDicom, chest: NDArray[np.uint16]) -> None:
    data = with_frame(make_dicom(chest), b"mpeg", "1.2.840.10008.1.2.4.100")
    with pytest.raises(ImageError, match=r"transfer syntax 1\.2\.840\.10008\.1\.2\.4\.100 .*not supported"):
        read_image(data)


def test_the_error_for_a_missing_decoder_names_the_extra(make_dicom: MakeDicom, chest: NDArray[np.uint16]) -> None:
    data = compressed(make_dicom(chest), RLELossless)
    decoder = get_decoder(RLELossless)
    decoder.remove_plugin("pylibjpeg")
    try:
        with pytest.raises(MissingExtraError, match=r"RLE Lossless.*pylibjpeg-rle.*\.\[dicom\]"):
            read_image(data)
    finally:
        decoder.add_plugin("pylibjpeg", ("pydicom.pixels.decoders.pylibjpeg", "_decode_frame"))
    assert read_image(data).shape == chest.shape


def test_the_pixel_limit_applies_to_rows_and_columns(make_dicom: MakeDicom, chest: NDArray[np.uint16]) -> None:
    data = make_dicom(chest, Rows=60000, Columns=60000)
    with pytest.raises(ImageLimitError, match="60000 pixels high and 60000 wide"):
        read_image(data)
    with pytest.raises(ImageLimitError):
        read_image(make_dicom(chest), limits=ReadLimits(max_pixels=chest.size - 1))


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless])
def test_a_codestream_must_have_the_size_of_its_attributes(
    make_dicom: MakeDicom, chest: NDArray[np.uint16], syntax: str
) -> None:
    data = compressed(make_dicom(chest), syntax)
    small = with_change(data, lambda dataset: setattr(dataset, "Rows", 47))
    with pytest.raises(
        ImageError, match="compressed frame is 48 by 40 pixels of 1 samples, the attributes say 47 by 40"
    ):
        read_image(small)


def test_a_jpeg_frame_must_have_the_size_of_its_attributes(bundled: Callable[[str], Path]) -> None:
    data = bundled("SC_rgb_jpeg_dcmtk.dcm").read_bytes()
    header = b"\xff\xc0\x00\x11\x08" + struct.pack(">HH", 100, 100)
    assert data.count(header) == 1
    huge = data.replace(header, header[:5] + struct.pack(">HH", 65500, 65500))
    with pytest.raises(ImageError, match="compressed frame is 65500 by 65500"):
        read_image(huge)


# The frame of SC_rgb_jpeg_gdcm.dcm: APP14 at byte 2, SOF3 at 18, DHT at 37 with its counts from 42, SOS at 62.
DAMAGES: dict[str, dict[int, int]] = {
    "no frame header": {19: 0xFE},
    "samples of 216 bits": {22: 216},
    "samples of 12 bits in 8": {22: 12},
    "a component is subsampled": {29: 0x21},
    "no table": {38: 0xFE},
    "a gap before the table": {37: 0x00},
    "a table of another class": {41: 0x10},
    "a table with more codes than symbols": {42: 2},
    "a table with more codes than bits": {42: 4, 43: 0, 44: 0, 45: 0},
    "a table with a symbol of 32 bits": {59: 32},
    "a table of no codes": {42: 0, 43: 0, 44: 0, 45: 0},
    "no scan": {63: 0xFE},
    "more components than there are": {66: 4},
    "a component that there is not": {67: 0x53},
    "a component twice": {69: 0x52},
    "a table that there is not": {68: 0x10},
    "no predictor": {73: 0},
    "a predictor that there is not": {73: 9},
    "a point transform": {75: 1},
}


def lossless_frame(bundled: Callable[[str], Path]) -> bytes:
    frame: bytes = get_frame(pydicom.dcmread(bundled("SC_rgb_jpeg_gdcm.dcm")).PixelData, 0, number_of_frames=1)
    return frame


@pytest.mark.parametrize("damage", DAMAGES)
def test_lossless_jpeg_that_would_crash_the_decoder_is_refused(
    bundled: Callable[[str], Path], make_dicom: MakeDicom, damage: str
) -> None:
    frame = bytearray(lossless_frame(bundled))
    for position, value in DAMAGES[damage].items():
        assert frame[position] != value
        frame[position] = value
    plain = make_dicom(np.zeros((100, 100, 3), dtype=np.uint8))
    with pytest.raises(ImageError, match="header of the compressed frame is not valid"):
        read_image(with_frame(plain, bytes(frame), JPEGLosslessSV1))


def test_unneeded_segments_of_lossless_jpeg_are_removed(bundled: Callable[[str], Path], make_dicom: MakeDicom) -> None:
    # GDCM crashes on an Adobe segment that requests a colour transform.
    frame = lossless_frame(bundled)
    asking = bytearray(frame)
    assert frame[6:11] == b"Adobe"
    asking[17] = 43
    plain = make_dicom(np.zeros((100, 100, 3), dtype=np.uint8))
    expected = read_image(bundled("SC_rgb_jpeg_gdcm.dcm"))
    for each in (frame, bytes(asking)):
        np.testing.assert_array_equal(read_image(with_frame(plain, each, JPEGLosslessSV1)), expected)


def test_lossless_jpeg_with_two_frame_headers_is_refused(bundled: Callable[[str], Path], make_dicom: MakeDicom) -> None:
    frame = lossless_frame(bundled)
    twice = frame[:37] + b"\xff\xc0" + frame[20:37] + frame[37:]
    plain = make_dicom(np.zeros((100, 100, 3), dtype=np.uint8))
    with pytest.raises(ImageError, match="header of the compressed frame is not valid"):
        read_image(with_frame(plain, twice, JPEGLosslessSV1))


def test_unconverted_colours_are_not_taken_for_rgb(make_dicom: MakeDicom) -> None:
    pixels = np.zeros((4, 4, 3), dtype=np.uint8)
    with pytest.raises(ImageError, match="cannot be converted to RGB"):
        read_image(make_dicom(pixels, PhotometricInterpretation="YBR_RCT"))


def test_a_jp2_file_instead_of_a_codestream_is_unwrapped(make_dicom: MakeDicom, chest: NDArray[np.uint16]) -> None:
    plain = make_dicom(chest)
    frame = get_frame(pydicom.dcmread(io.BytesIO(compressed(plain, JPEG2000Lossless))).PixelData, 0, number_of_frames=1)
    wrapper = b"\x00\x00\x00\x0cjP  \r\n\x87\n" + b"\x00\x00\x00\x00" + b"what OpenJPEG could read for ever"
    np.testing.assert_array_equal(read_image(with_frame(plain, wrapper + frame, JPEG2000Lossless)), read_image(plain))


def test_a_panic_of_the_rle_decoder_is_an_image_error(make_dicom: MakeDicom, capfd: pytest.CaptureFixture[str]) -> None:
    # The second segment continues after the last pixel.
    frame = struct.pack("<16L", 2, 64, 66, *[0] * 13) + b"\xf8\x07" + b"\x81\x07" * 9
    data = with_frame(make_dicom(np.zeros((3, 3), dtype=np.uint16)), frame, RLELossless)
    with pytest.raises(ImageError, match="pixel data"):
        read_image(data)
    assert "panicked" in capfd.readouterr().err, "the decoder raised an ordinary exception: this test shows nothing"


@pytest.mark.parametrize("implicit", [False, True])
def test_a_deflated_bomb_is_not_inflated(implicit: bool) -> None:
    syntax = b"1.2.840.10008.1.2.1.99"
    length = struct.pack("<I", len(syntax)) if implicit else b"UI" + struct.pack("<H", len(syntax))
    header = bytes(128) + b"DICM" + struct.pack("<HH", 2, 0x10) + length + syntax
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = header + b"".join(deflate.compress(bytes(2**20)) for _ in range(100)) + deflate.flush()
    assert len(bomb) < 2**17
    tracemalloc.start()
    with pytest.raises(ImageLimitError, match="inflated data set is longer than 4194304 bytes"):
        read_image(bomb, limits=ReadLimits(max_bytes=2**22))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 * 2**20
    with pytest.raises(ImageError, match="truncated"):
        read_image(bomb[:-5000])


def test_a_file_with_an_ambiguous_first_element_is_refused(make_dicom: MakeDicom, chest: NDArray[np.uint16]) -> None:
    # pydicom would read it again as implicit VR, and might find another transfer syntax than the checked one.
    data = make_dicom(chest)
    first = data[132:138]
    assert first == b"\x02\x00\x00\x00UL"
    with pytest.raises(ImageError, match="damaged"):
        read_image(data.replace(first, b"\x02\x00\x00\x00ZZ", 1))


SECRET = "Roe^Jill"
NAMED: list[dict[str, Any]] = [
    {"PhotometricInterpretation": "11111111"},
    {"PixelData": None, "StudyDescription": "11111111"},
    {"Rows": 50000, "Columns": 50000, "StudyDescription": "11111111"},
    {"BitsAllocated": 24, "PatientAddress": "11111111"},
    {"PixelData": b"11111111", "PatientComments": "11111111"},
]


@pytest.mark.parametrize("attributes", NAMED)
def test_errors_contain_no_values_of_a_file(make_dicom: MakeDicom, attributes: dict[str, Any]) -> None:
    named = {"PatientName": SECRET, **attributes}
    data = make_dicom(np.zeros((9, 9), dtype=np.uint16), **named).replace(b"11111111", SECRET.encode())
    with pytest.raises(ImageError) as caught:
        read_image(data)
    text = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert SECRET not in text
    assert "Roe" not in text
    assert "MRN-4711" not in text
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert "\n" not in str(caught.value)


IGNORED: list[dict[str, Any]] = [
    {"WindowCenter": "11111111", "WindowWidth": 10},
    {"RescaleSlope": "11111111", "RescaleIntercept": 0},
    {"NumberOfFrames": "11111111"},
    {"VOILUTFunction": "11111111", "WindowCenter": 5, "WindowWidth": 5},
    {"PresentationLUTShape": "11111111"},
]


@pytest.mark.parametrize("attributes", IGNORED)
def test_remarks_contain_no_values_of_a_file(make_dicom: MakeDicom, attributes: dict[str, Any]) -> None:
    data = make_dicom(np.zeros((9, 9), dtype=np.uint16), PatientName=SECRET, **attributes)
    read = read_whole(data.replace(b"11111111", SECRET.encode()))
    assert f"{next(iter(attributes))} is not valid and is ignored" in read.remarks
    assert "Roe" not in str(read.remarks)


def test_a_name_in_the_transfer_syntax_is_not_printed(make_dicom: MakeDicom) -> None:
    data = make_dicom(np.zeros((9, 9), dtype=np.uint16))
    syntax = b"1.2.840.10008.1.2.1\x00"
    assert data.count(syntax) == 1
    named = data.replace(syntax, SECRET.encode().ljust(len(syntax), b"\x00"))
    assert read_whole(named).remarks == ("TransferSyntaxUID does not match the pixel data and is ignored",)
    video = with_frame(data, b"mpeg", syntax[:-1].decode())
    with pytest.raises(ImageError) as caught:
        read_image(video.replace(syntax, SECRET.encode().ljust(len(syntax), b"\x00")))
    assert "Roe" not in str(caught.value)


def test_damage_in_unused_attributes_is_ignored(make_dicom: MakeDicom, chest: NDArray[np.uint16]) -> None:
    data = make_dicom(chest, PatientAge="044Y", PatientWeight="11111111")
    broken = data.replace(b"11111111", b"not one!").replace(b"044Y", b"\xff\xfe\x00?")
    np.testing.assert_array_equal(read_image(broken), read_image(data))


def test_unneeded_attributes_are_not_kept(
    make_dicom: MakeDicom, chest: NDArray[np.uint16], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Any] = []

    def watch(dataset: Any, *rest: Any) -> Any:
        kept.append(dataset)
        return decode_frame(dataset, *rest)

    monkeypatch.setattr("lrclr.images._dicom.decode_frame", watch)
    read_image(make_dicom(chest, PatientName=SECRET))
    assert "Rows" in kept[0]
    assert not [element for element in kept[0] if element.tag.group == 0x0010]


@pytest.mark.parametrize("error", ["AttributeError('_ARRAY_API not found')", "OSError('libgdcm is broken')"])
def test_the_import_error_of_a_decoder_is_reported(error: str, tmp_path: Path) -> None:
    """pydicom imports the installed decoders. An import error of a decoder must not be reported as one of pydicom."""
    (tmp_path / "gdcm.py").write_text(f"raise {error}")
    script = "import sys\nfrom lrclr import read_image\ntry: read_image(sys.argv[1])\nexcept Exception as e: print(e)"
    command = [sys.executable, "-c", script, str(SAMPLES[0].path("dicom"))]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
    assert "decoders that are installed for it cannot be imported" in process.stdout
    assert str(tmp_path / "gdcm.py") in process.stdout
    assert error.replace("('", ": ").replace("')", "") in process.stdout
