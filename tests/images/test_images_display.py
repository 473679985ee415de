"""The greyscale pipeline of DICOM: how stored values are displayed."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.pixels import apply_windowing
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from lrclr.errors import ImageError
from lrclr.images import read_image
from tests.images.conftest import read_whole

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tests.images.conftest import MakeDicom

RAMP: NDArray[np.uint16] = np.arange(4096, dtype=np.uint16).reshape(64, 64)
SYNTAXES = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian]
NOT_INTEGERS: dict[str, Any] = dict.fromkeys(("PixelData", "BitsStored", "HighBit", "PixelRepresentation"))


def stretched(values: NDArray[Any]) -> NDArray[np.float64]:
    values = values.astype(np.float64)
    return np.asarray(np.rint((values - values.min()) / (values.max() - values.min()) * 255))


def lut(first: int, entries: list[int], bits: int, *, packed: str | None = None) -> Dataset:
    """Make a LUT item. `packed` is the dtype of the entries if they are written as bytes."""
    item = Dataset()
    item.LUTDescriptor = [len(entries) % 65536, first, bits]
    item[0x00283002].VR = "SS" if first < 0 else "US"
    if packed:
        item.add_new(0x00283006, "OW", np.array(entries, dtype=packed).tobytes())
    else:
        item.add_new(0x00283006, "US", entries)
    return item


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.uint32, np.int32])
def test_without_a_window_the_range_of_values_is_shown(
    make_dicom: MakeDicom, dtype: type[np.integer], syntax: str
) -> None:
    pixels = (np.arange(60).reshape(6, 10) * 2 + 7).astype(dtype)
    if np.issubdtype(dtype, np.signedinteger):
        pixels -= 100
    np.testing.assert_array_equal(read_image(make_dicom(pixels, syntax=syntax)), stretched(pixels))


def test_a_very_wide_range_of_values_is_shown(make_dicom: MakeDicom) -> None:
    pixels = np.array([[0, 2**31, 2**32 - 1]], dtype=np.uint32)
    np.testing.assert_array_equal(read_image(make_dicom(pixels)), [[0, 128, 255]])


def test_monochrome1_is_monochrome2_inverted(make_dicom: MakeDicom, chest: NDArray[np.uint16]) -> None:
    cases: list[dict[str, Any]] = [{}, {"WindowCenter": 1800, "WindowWidth": 1500}]
    for attributes in cases:
        plain = read_image(make_dicom(chest, BitsStored=12, **attributes))
        inverted = read_image(make_dicom(chest, BitsStored=12, PhotometricInterpretation="MONOCHROME1", **attributes))
        np.testing.assert_array_equal(inverted, 255 - plain)


@pytest.mark.parametrize(
    ("photometric", "shape", "inverted"),
    [
        ("MONOCHROME1", "INVERSE", True),
        ("MONOCHROME1", "IDENTITY", True),
        ("MONOCHROME2", "INVERSE", True),
        ("MONOCHROME2", "IDENTITY", False),
    ],
)
def test_two_inversions_are_one(make_dicom: MakeDicom, photometric: str, shape: str, inverted: bool) -> None:
    data = make_dicom(RAMP, BitsStored=12, PhotometricInterpretation=photometric, PresentationLUTShape=shape)
    assert read_image(data)[0, 0] == (255 if inverted else 0)


@pytest.mark.parametrize("signed", [False, True])
def test_bits_outside_the_stored_ones_are_ignored(make_dicom: MakeDicom, signed: bool) -> None:
    values = RAMP.astype(np.int16) - (2048 if signed else 0)
    junk = (np.arange(4096).reshape(64, 64) % 16) << 12
    pixels = ((values & 0x0FFF) | junk).astype(np.uint16).view(np.int16 if signed else np.uint16)
    data = make_dicom(pixels, BitsStored=12)
    np.testing.assert_array_equal(read_image(data), stretched(values))


@pytest.mark.parametrize("signed", [False, True])
def test_stored_bits_below_a_high_bit_are_found(make_dicom: MakeDicom, signed: bool) -> None:
    values = RAMP.astype(np.int32) - (2048 if signed else 0)
    pixels = ((values << 4) | 5).astype(np.int16 if signed else np.uint16)
    data = make_dicom(pixels, BitsStored=12, HighBit=15)
    np.testing.assert_array_equal(read_image(data), stretched(values))


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_odd_bit_depths_are_read(make_dicom: MakeDicom, bits: int) -> None:
    pixels = np.array([[0, 2 ** (bits - 1), 2**bits - 1]], dtype=np.uint16)
    data = make_dicom(pixels, BitsStored=bits, WindowCenter=2 ** (bits - 1), WindowWidth=2**bits)
    np.testing.assert_array_equal(read_image(data), [[0, 128, 255]])


def test_one_bit_pixels_are_black_and_white(make_dicom: MakeDicom) -> None:
    bits = np.random.default_rng(0).integers(0, 2, (8, 16), dtype=np.uint8)
    packed = np.packbits(bits, bitorder="little").tobytes()
    data = make_dicom(bits, BitsAllocated=1, BitsStored=1, HighBit=0, PixelData=packed)
    np.testing.assert_array_equal(read_image(data), bits * 255)


@given(
    st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID", None]),
    st.integers(-3000, 3000),
    st.integers(2, 5000),
    st.sampled_from([(1.0, 0.0), (1.0, -1024.0), (2.5, 10.5)]),
    st.booleans(),
)
def test_windows_agree_with_pydicom(
    make_dicom: MakeDicom, function: str | None, center: int, width: int, rescale: tuple[float, float], signed: bool
) -> None:
    stored = RAMP.astype(np.int16) - 2048 if signed else RAMP
    slope, intercept = rescale
    attributes: dict[str, Any] = {"WindowCenter": center, "WindowWidth": width, "VOILUTFunction": function}
    data = make_dicom(stored, BitsStored=12, RescaleSlope=slope, RescaleIntercept=intercept, **attributes)
    described = pydicom.dcmread(io.BytesIO(data))
    with np.errstate(over="ignore"):
        shown = apply_windowing(stored * slope + intercept, described)
    low = (-2048 if signed else 0) * slope + intercept
    expected = np.rint((shown - low) / (4095 * slope) * 255)
    # A value halfway between two grey levels may be rounded up or down.
    assert abs(read_image(data) - expected).max() <= 1
    assert (read_image(data) != expected).mean() < 0.01


def test_a_window_of_width_1_is_a_threshold(make_dicom: MakeDicom) -> None:
    pixels = np.array([[99, 100, 101]], dtype=np.uint16)
    data = make_dicom(pixels, WindowCenter=100.5, WindowWidth=1)
    np.testing.assert_array_equal(read_image(data), [[0, 0, 255]])


def test_a_negative_slope_inverts_the_picture_also_with_a_window(make_dicom: MakeDicom) -> None:
    # The rescaled values run from 0 to -4095. The window shows the greatest value as white.
    attributes: dict[str, Any] = {"RescaleSlope": -1, "RescaleIntercept": 0}
    windowed = read_image(make_dicom(RAMP, BitsStored=12, WindowCenter=-1000, WindowWidth=500, **attributes)).ravel()
    assert windowed[0] == 255
    assert windowed[4095] == 0
    assert 120 <= windowed[1000] <= 135
    np.testing.assert_array_equal(
        read_image(make_dicom(RAMP, BitsStored=12, **attributes)), stretched(-RAMP.astype(int))
    )


def test_the_first_of_several_windows_is_used(make_dicom: MakeDicom) -> None:
    single = make_dicom(RAMP, BitsStored=12, WindowCenter=1000, WindowWidth=300)
    several = make_dicom(RAMP, BitsStored=12, WindowCenter=[1000, 3000], WindowWidth=[300, 50])
    np.testing.assert_array_equal(read_image(several), read_image(single))


@pytest.mark.parametrize("window", [(1000, 0), (1000, -5), (1000, None), (None, 300), ("", "")])
def test_an_invalid_window_is_ignored(make_dicom: MakeDicom, window: tuple[Any, Any]) -> None:
    data = make_dicom(RAMP, BitsStored=12, WindowCenter=window[0], WindowWidth=window[1])
    np.testing.assert_array_equal(read_image(data), stretched(RAMP))


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("signed", [False, True])
def test_a_voi_lut_is_preferred_to_a_window(make_dicom: MakeDicom, signed: bool, syntax: str) -> None:
    pixels = np.array(
        [[-5, 0, 1, 2, 3, 9]] if signed else [[0, 5, 6, 7, 8, 20]], dtype=np.int16 if signed else np.uint16
    )
    first = 0 if signed else 5
    table = lut(first, [0, 1000, 300, 4095], 12)
    data = make_dicom(pixels, syntax=syntax, VOILUTSequence=[table], WindowCenter=1, WindowWidth=1)
    np.testing.assert_array_equal(read_image(data), np.rint(np.array([[0, 0, 1000, 300, 4095, 4095]]) / 4095 * 255))


@pytest.mark.parametrize("packed", [None, "u1", "<u2"])
def test_an_8_bit_voi_lut_with_many_entries_does_not_overflow(make_dicom: MakeDicom, packed: str | None) -> None:
    entries = [value // 16 for value in range(4096)]
    data = make_dicom(RAMP, BitsStored=12, VOILUTSequence=[lut(0, entries, 8, packed=packed)])
    np.testing.assert_array_equal(read_image(data), RAMP // 16)


@pytest.mark.parametrize(("syntax", "packed"), [(ExplicitVRLittleEndian, "<u2"), (ExplicitVRBigEndian, ">u2")])
def test_a_lut_of_all_16_bit_values_is_read_in_both_byte_orders(
    make_dicom: MakeDicom, syntax: str, packed: str
) -> None:
    pixels = np.array([[0, 1, 256, 65535]], dtype=np.uint16)
    table = lut(0, list(range(65535, -1, -1)), 16, packed=packed)
    np.testing.assert_array_equal(
        read_image(make_dicom(pixels, syntax=syntax, VOILUTSequence=[table])), [[255, 255, 254, 0]]
    )


def test_the_first_value_of_a_lut_has_the_signedness_of_the_pixels(make_dicom: MakeDicom) -> None:
    pixels = np.array([[-3, -2, -1, 0, 1]], dtype=np.int16)
    data = make_dicom(pixels, VOILUTSequence=[lut(65534, [0, 100, 200, 255], 8)])
    np.testing.assert_array_equal(read_image(data), [[0, 0, 100, 200, 255]])


@pytest.mark.parametrize("first", [-2, 65534])
def test_a_lut_that_starts_below_zero_is_for_rescaled_values(make_dicom: MakeDicom, first: int) -> None:
    """In implicit VR, the first value is read as unsigned."""
    pixels = np.array([[0, 1, 2, 3]], dtype=np.uint16)
    table = lut(first, [0, 100, 200, 255], 8)
    data = make_dicom(pixels, RescaleSlope=1, RescaleIntercept=-2, VOILUTSequence=[table])
    np.testing.assert_array_equal(read_image(data), [[0, 100, 200, 255]])


def test_a_lut_that_starts_high_is_not_below_zero(make_dicom: MakeDicom) -> None:
    """Rescaled values that reach 65,535 cannot be signed words, even if the least is -1."""
    pixels = np.array([[0, 2500, 2501, 2502]], dtype=np.uint16)
    table = lut(40000, [0, 100, 255], 8)
    data = make_dicom(pixels, BitsStored=12, RescaleSlope=16, RescaleIntercept=-1, VOILUTSequence=[table])
    assert read_image(data).tolist()[0][0] == 0


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_the_modality_lut_is_applied_before_the_window(make_dicom: MakeDicom, syntax: str) -> None:
    pixels = np.array([[0, 1, 2, 3]], dtype=np.uint16)
    modality = lut(0, [10, 60000, 500, 30000], 16)
    modality.ModalityLUTType = "US"
    data = make_dicom(pixels, syntax=syntax, ModalityLUTSequence=[modality])
    np.testing.assert_array_equal(read_image(data), stretched(np.array([[10, 60000, 500, 30000]])))
    windowed = make_dicom(pixels, syntax=syntax, ModalityLUTSequence=[modality], WindowCenter=30000, WindowWidth=1)
    np.testing.assert_array_equal(read_image(windowed), [[0, 255, 0, 255]])


def test_padding_is_black_and_outside_the_range(make_dicom: MakeDicom) -> None:
    pixels = np.array([[-2000, 0, 50, 100]], dtype=np.int16)
    np.testing.assert_array_equal(read_image(make_dicom(pixels, PixelPaddingValue=-2000)), [[0, 0, 128, 255]])
    white = np.array([[4095, 0, 50, 100]], dtype=np.uint16)
    attributes: dict[str, Any] = {"PhotometricInterpretation": "MONOCHROME1", "PixelPaddingValue": 4095}
    np.testing.assert_array_equal(read_image(make_dicom(white, **attributes)), [[0, 255, 127, 0]])
    wide = np.array([[4000, 4095, 10, 110]], dtype=np.uint16)
    limited = make_dicom(wide, PixelPaddingValue=4095, PixelPaddingRangeLimit=4000)
    np.testing.assert_array_equal(read_image(limited), [[0, 0, 0, 255]])


def test_a_padding_value_of_the_other_signedness_is_used(make_dicom: MakeDicom) -> None:
    pixels = np.array([[-2000, 0, 50, 100]], dtype=np.int16)
    data = make_dicom(pixels, PixelPaddingValue=-2000)
    tag = b"\x28\x00\x20\x01"
    assert data.count(tag + b"SS") == 1
    np.testing.assert_array_equal(read_image(data.replace(tag + b"SS", tag + b"US")), [[0, 0, 128, 255]])


def test_pictures_without_contrast_are_black(make_dicom: MakeDicom) -> None:
    flat = np.full((3, 3), 7, dtype=np.uint16)
    assert read_image(make_dicom(flat)).max() == 0
    assert read_image(make_dicom(flat, PixelPaddingValue=7)).max() == 0


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=2, max_size=12))
def test_float_pixels_show_their_range(make_dicom: MakeDicom, values: list[float]) -> None:
    pixels = np.array([values], dtype=np.float32)
    assume(pixels.min() < pixels.max())
    data = make_dicom(pixels, **NOT_INTEGERS, FloatPixelData=pixels.tobytes())
    assert abs(read_image(data) - stretched(pixels)).max() <= 1


def test_the_widest_range_of_floats_is_displayed(make_dicom: MakeDicom) -> None:
    pixels = np.array([[-1.7e308, 0, 1.7e308]])
    data = make_dicom(pixels, **NOT_INTEGERS, DoubleFloatPixelData=pixels.tobytes())
    np.testing.assert_array_equal(read_image(data), [[0, 128, 255]])


def test_float_pixels_must_be_finite(make_dicom: MakeDicom) -> None:
    pixels = np.array([[0, np.nan]], dtype=np.float32)
    with pytest.raises(ImageError, match="not finite"):
        read_image(make_dicom(pixels, **NOT_INTEGERS, FloatPixelData=pixels.tobytes()))


@pytest.mark.parametrize("bits", [8, 16])
def test_palettes_become_rgb(make_dicom: MakeDicom, bits: int) -> None:
    pixels = np.array([[0, 3, 4, 6, 200]], dtype=np.uint8)
    white = 2**bits - 1
    palettes: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour, entries in (("Red", [0, 0, white, 0]), ("Green", [white, 0, 0, 0]), ("Blue", [0, white, 0, white])):
        palettes[f"{colour}PaletteColorLookupTableDescriptor"] = [4, 3, bits]
        palettes[f"{colour}PaletteColorLookupTableData"] = np.array(entries, dtype=f"<u{bits // 8}").tobytes()
    green, blue, red = [0, 255, 0], [0, 0, 255], [255, 0, 0]
    np.testing.assert_array_equal(read_image(make_dicom(pixels, **palettes)), [[green, green, blue, blue, blue]])
    pixels[0, 3] = 5
    np.testing.assert_array_equal(read_image(make_dicom(pixels, **palettes))[0, 3], red)


def test_palettes_that_are_missing_or_segmented_are_refused(make_dicom: MakeDicom) -> None:
    pixels = np.zeros((2, 2), dtype=np.uint8)
    with pytest.raises(ImageError, match="lacks the palette"):
        read_image(make_dicom(pixels, PhotometricInterpretation="PALETTE COLOR"))
    with pytest.raises(ImageError, match="segmented"):
        read_image(
            make_dicom(
                pixels, PhotometricInterpretation="PALETTE COLOR", SegmentedRedPaletteColorLookupTableData=bytes(8)
            )
        )


def test_colour_of_more_than_8_bits_is_scaled_over_the_stored_bits(make_dicom: MakeDicom) -> None:
    pixels = np.array([[[0, 512, 1023], [1023, 0, 256]]], dtype=np.uint16)
    np.testing.assert_array_equal(read_image(make_dicom(pixels, BitsStored=10)), np.rint(pixels / 1023 * 255))


def test_both_planar_configurations_give_the_same_colours(make_dicom: MakeDicom) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    planes = make_dicom(pixels, PlanarConfiguration=1, PixelData=pixels.transpose(2, 0, 1).tobytes())
    np.testing.assert_array_equal(read_image(make_dicom(pixels)), pixels)
    np.testing.assert_array_equal(read_image(planes), pixels)


def test_ybr_becomes_rgb(make_dicom: MakeDicom) -> None:
    # Red, by the equations of the standard (PS3.3 C.7.6.3.1.2).
    pixels = np.full((4, 4, 3), (76, 85, 255), dtype=np.uint8)
    picture = read_image(make_dicom(pixels, PhotometricInterpretation="YBR_FULL"))
    assert abs(picture.astype(int) - [254, 0, 0]).max() <= 1


WIDTH_REMARK = "the bits in LUTDescriptor of VOILUTSequence do not match LUTData; the greatest entry is white"
AGFA = np.rint(4095 / (1 + np.exp(-(np.arange(4096) - 2000) / 500))).astype(int)
AGFA[-1] = 4095


@pytest.mark.parametrize("packed", [None, "<u2"])
@pytest.mark.parametrize("bits", [0, 8, 10, 14, 16, 40])
def test_the_white_of_a_partly_used_voi_lut_is_its_greatest_entry(
    make_dicom: MakeDicom, bits: int, packed: str | None
) -> None:
    # As in files from Agfa: 12-bit entries, declared as 16.
    read = read_whole(make_dicom(RAMP, BitsStored=12, VOILUTSequence=[lut(0, AGFA.tolist(), bits, packed=packed)]))
    np.testing.assert_array_equal(read.pixels, np.rint(AGFA / 4095 * 255).reshape(RAMP.shape))
    assert read.pixels.mean() > 100
    assert read.remarks == (WIDTH_REMARK,)


@given(
    entries=st.lists(st.integers(0, 65535), min_size=2, max_size=40),
    bits=st.integers(0, 20),
    first=st.sampled_from([0, 5, -20]),
    packed=st.sampled_from([None, "<u2", "u1"]),
)
def test_the_white_of_a_voi_lut(
    make_dicom: MakeDicom, entries: list[int], bits: int, first: int, packed: str | None
) -> None:
    if packed == "u1":
        entries = [entry & 0xFF for entry in entries]
        # An odd number of bytes is padded.
        entries += entries[:1] if len(entries) % 2 else []
    table, pixels = np.array(entries), np.arange(first, first + len(entries), dtype=np.int16)[None]
    assume(table.min() < table.max())
    fits = int(table.max()).bit_length() == bits
    read = read_whole(make_dicom(pixels, VOILUTSequence=[lut(first, entries, bits, packed=packed)]))
    np.testing.assert_array_equal(read.pixels, [np.rint(table / (2**bits - 1 if fits else table.max()) * 255)])
    assert read.remarks == (() if fits else (WIDTH_REMARK,))


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_byte_entries_of_a_lut_are_read_with_any_declared_bits(make_dicom: MakeDicom, bits: int) -> None:
    entries = [value // 16 for value in range(4096)]
    data = make_dicom(RAMP, BitsStored=12, VOILUTSequence=[lut(0, entries, bits, packed="u1")])
    np.testing.assert_array_equal(read_image(data), RAMP // 16)


def test_a_modality_lut_is_read_with_any_declared_bits(make_dicom: MakeDicom) -> None:
    pixels = np.array([[0, 1, 2, 3]], dtype=np.uint16)
    for bits in (0, 8, 16, 40):
        modality = lut(0, [10, 4000, 500, 2000], bits)
        modality.ModalityLUTType = "US"
        data = make_dicom(pixels, ModalityLUTSequence=[modality], WindowCenter=2048, WindowWidth=4096)
        np.testing.assert_array_equal(read_image(data), np.rint(np.array([[10, 4000, 500, 2000]]) / 4095 * 255))


def broken_tables() -> dict[str, Dataset]:
    tables = {
        name: lut(0, [1, 2, 3, 4, 5, 6], 8)
        for name in ("short", "no data", "no descriptor", "two numbers", "text", "text data", "flat")
    }
    tables["short"].LUTDescriptor = [9, 0, 12]
    del tables["no data"].LUTData, tables["no descriptor"].LUTDescriptor
    tables["two numbers"].LUTDescriptor = [6, 0]
    tables["text"]["LUTDescriptor"].VR = "LO"
    tables["text"].LUTDescriptor = "N/A"
    tables["text data"]["LUTData"].VR = "LO"
    tables["text data"].LUTData = "N/A"
    tables["flat"].LUTData = [3] * 6
    return tables


@pytest.mark.parametrize("name", broken_tables())
@pytest.mark.parametrize("keyword", ["VOILUTSequence", "ModalityLUTSequence"])
def test_an_invalid_lut_is_ignored(make_dicom: MakeDicom, keyword: str, name: str) -> None:
    window: dict[str, Any] = {"WindowCenter": 1800, "WindowWidth": 700}
    broken: dict[str, Any] = {**window, keyword: [broken_tables()[name]]}
    read = read_whole(make_dicom(RAMP, BitsStored=12, **broken))
    np.testing.assert_array_equal(read.pixels, read_image(make_dicom(RAMP, BitsStored=12, **window)))
    assert read.remarks == (f"{keyword} is not valid and is ignored",)


def test_an_infinite_rescale_is_ignored(make_dicom: MakeDicom) -> None:
    read = read_whole(make_dicom(RAMP, BitsStored=12, RescaleSlope=1e306, RescaleIntercept=0))
    np.testing.assert_array_equal(read.pixels, stretched(RAMP))
    assert read.remarks == ("RescaleSlope and RescaleIntercept give values that are too large and are ignored",)


@pytest.mark.parametrize("declared", [8, 12, 16])
@pytest.mark.parametrize("packed", ["u1", "<u2"])
def test_an_8_bit_palette_is_read_with_any_declared_bits(make_dicom: MakeDicom, declared: int, packed: str) -> None:
    pixels = np.array([[0, 1, 2, 3]], dtype=np.uint8)
    colours = {"Red": [0, 255, 10, 20], "Green": [100, 0, 0, 90], "Blue": [0, 60, 30, 0]}
    palettes: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour, entries in colours.items():
        palettes[f"{colour}PaletteColorLookupTableDescriptor"] = [4, 0, declared]
        palettes[f"{colour}PaletteColorLookupTableData"] = np.array(entries, dtype=packed).tobytes()
    np.testing.assert_array_equal(read_image(make_dicom(pixels, **palettes)), [np.array(list(colours.values())).T])
