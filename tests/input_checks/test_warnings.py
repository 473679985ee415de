"""Chest radiographs give no warning, whatever their frame. Other pictures give their warnings."""

from __future__ import annotations

import io
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from lrclr.errors import ImageError, UsageError
from lrclr.images import read_for_model, read_image
from lrclr.input_checks import (
    CHECKED_ATTRIBUTES,
    CODES,
    SENTENCES,
    check_refused,
    described,
    known_codes,
    pixel_warnings,
)
from lrclr.preprocessing import PreprocessSpec
from lrclr.samples import sample_paths

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

FILES = sample_paths("png")
GOOD = [read_image(path) for path in FILES]


SPEC = PreprocessSpec.clip(160)


def warnings(image: Path | NDArray[Any]) -> tuple[str, ...]:
    return read_for_model(image, SPEC).warnings


@given(
    st.sampled_from(range(len(GOOD))),
    st.tuples(*(st.floats(0, 0.25) for _ in range(4))),
    st.tuples(*(st.floats(0, 0.08) for _ in range(4))),
    st.floats(0.7, 1.4),
)
@settings(max_examples=60, deadline=None)
def test_a_radiograph_in_another_frame_is_not_warned_of(
    number: int, bars: tuple[float, ...], cut: tuple[float, ...], gamma: float
) -> None:
    """Bars at any edge, some of the edges cut off, and another tone curve."""
    image = GOOD[number]
    edges = [round(share * image.shape[0]) for share in cut]
    image = image[edges[0] : image.shape[0] - edges[1], edges[2] : image.shape[1] - edges[3]]
    image = np.rint(255 * (image / 255) ** gamma).astype(np.uint8)
    top, bottom, left, right = (round(share * image.shape[0]) for share in bars)
    assert warnings(np.pad(image, ((top, bottom), (left, right)))) == ()


@pytest.mark.parametrize("image", GOOD)
@pytest.mark.parametrize("as_colour", [False, True])
def test_other_orientations_are_named(image: NDArray[np.uint8], as_colour: bool) -> None:
    if as_colour:
        image = np.stack([image] * 3, axis=-1)
    assert warnings(255 - image) == ("inverted",)
    assert warnings(np.rot90(image)) == warnings(np.rot90(image, 3)) == ("turned",)
    assert warnings(np.rot90(image, 2)) == warnings(image[::-1]) == ("upside_down",)


def _page() -> NDArray[np.uint8]:
    page = Image.new("L", (600, 800), 255)
    for line in range(30):
        ImageDraw.Draw(page).text((40, 30 + 24 * line), "No acute cardiopulmonary process. " * 2, fill=0)
    return np.asarray(page)


RANDOM = np.random.default_rng(0)
OTHERS = {
    "flat": np.full((300, 300), 90, np.uint8),
    "noise": RANDOM.integers(0, 256, (300, 300), dtype=np.uint8),
    "one_level": _page(),
    "tiny": GOOD[0][::16, ::16],
    "extreme_shape": GOOD[0][: GOOD[0].shape[0] // 3],
    "colour": (GOOD[0][..., None] * np.array([1.0, 0.8, 0.6])).astype(np.uint8),
}


@pytest.mark.parametrize("code", OTHERS)
def test_other_pictures_are_warned_of(code: str) -> None:
    assert code in warnings(OTHERS[code])


@pytest.mark.parametrize("shape", [(1, 1), (1, 400), (400, 1), (2, 2), (3, 700)])
@pytest.mark.parametrize("level", [0, 255])
def test_any_shape_can_be_checked(shape: tuple[int, int], level: int) -> None:
    for pixels in (np.full(shape, level, np.uint8), np.full((*shape, 3), float(level), np.float32)):
        assert "flat" in pixel_warnings(pixels, *shape, 160)


@cache
def _uncompressed() -> bytes:
    """The first sample. It is quicker to read than in JPEG 2000."""
    dataset = pydicom.dcmread(sample_paths("dicom")[0])
    dataset.decompress(generate_instance_uid=False)
    stream = io.BytesIO()
    dataset.save_as(stream)
    return stream.getvalue()


def _sample() -> pydicom.Dataset:
    return pydicom.dcmread(io.BytesIO(_uncompressed()))


def _changed(path: Path, **changes: Any) -> Path:
    dataset = _sample()
    for keyword, value in changes.items():
        if value is None:
            dataset.pop(keyword, None)
        else:
            setattr(dataset, keyword, value)
    dataset.save_as(path)
    return path


def _code(meaning: str, value: str = "1") -> list[pydicom.Dataset]:
    item = pydicom.Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "99TEST", meaning
    return [item]


@pytest.mark.filterwarnings("ignore:Invalid value")
@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("other_modality", {"Modality": "CT"}),
        ("other_modality", {"Modality": "XC"}),
        ("other_body_part", {"BodyPartExamined": "KNEE"}),
        ("other_body_part", {"BodyPartExamined": "", "AnatomicRegionSequence": _code("Pelvis")}),
        ("other_body_part", {"BodyPartExamined": "THORACIC SPINE"}),
        ("other_body_part", {"BodyPartExamined": "", "AnatomicRegionSequence": _code("Brustwirbel")}),
        (None, {"BodyPartExamined": "TORAX", "ViewPosition": "A-P"}),
        (None, {"BodyPartExamined": "UNKNOWN", "ViewPosition": "p.a."}),
        (None, {"BodyPartExamined": "CHEST 2 COLUMNS", "ViewPosition": "AP-SUPINE"}),
        ("other_body_part", {"BodyPartExamined": "THORACOLUMBAR"}),
        (None, {"BodyPartExamined": "", "AnatomicRegionSequence": _code("Brustkorb", "51185008")}),
        ("other_view", {"ViewPosition": "LL"}),
        ("other_view", {"ViewPosition": None, "PatientOrientation": ["P", "F"]}),
        ("other_view", {"ViewPosition": "AP LLD"}),
        ("other_view", {"ViewPosition": None, "ViewCodeSequence": _code("left lateral")}),
        ("for_processing", {"PresentationIntentType": "FOR PROCESSING"}),
        ("for_processing", {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.1.1"}),
        ("burned_in", {"BurnedInAnnotation": "YES"}),
        ("secondary_capture", {"ImageType": ["DERIVED", "SECONDARY"]}),
        ("secondary_capture", {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}),
        ("field_size", {"PixelSpacing": [0.01, 0.01]}),
        (None, {"PixelSpacing": [1, 1], "ImagerPixelSpacing": [0.4, 0.4]}),
        ("pixel_aspect", {"PixelAspectRatio": [2, 1]}),
        ("pixel_aspect", {"PixelSpacing": None, "ImagerPixelSpacing": [0.5, 0.3]}),
        (None, {"Modality": None, "BodyPartExamined": None, "ViewPosition": None, "ImageType": None}),
        (None, {"Modality": "", "BodyPartExamined": "", "ViewPosition": "", "ImageType": ""}),
        (None, {"BodyPartExamined": "PORT CHEST", "ViewPosition": "ap", "PixelSpacing": [0, 0]}),
        (None, {"BodyPartExamined": "TORAX", "ViewPosition": "AP AXIAL", "ImageType": "ORIGINAL"}),
        (None, {"ViewPosition": "", "ViewCodeSequence": _code("postero-anterior")}),
    ],
)
def test_attributes_are_warned_of(code: str | None, changes: dict[str, Any], tmp_path: Path) -> None:
    assert warnings(_changed(tmp_path / "a.dcm", **changes)) == (() if code is None else (code,))


@pytest.mark.filterwarnings("ignore:Invalid value")
@pytest.mark.parametrize("keyword", CHECKED_ATTRIBUTES)
@pytest.mark.parametrize(
    ("vr", "value"),
    [
        ("US", 5),
        ("FD", [float("nan"), 2.0]),
        ("OB", b"ab"),
        ("SQ", []),
        ("SQ", [pydicom.Dataset()]),
        ("LO", ["", "x", "y"]),
        ("PN", "A^B"),
    ],
)
def test_an_attribute_of_another_kind_costs_no_image(keyword: str, vr: str, value: Any, tmp_path: Path) -> None:
    dataset = _sample()
    dataset[keyword] = pydicom.DataElement(keyword, vr, value)
    dataset.save_as(tmp_path / "a.dcm")
    assert set(warnings(tmp_path / "a.dcm")) <= set(CODES)


def test_the_samples_give_no_warning_but_the_secondary_capture() -> None:
    assert {path.stem: warnings(path) for path in sample_paths("dicom")} == {
        "normal": (),
        "effusion": (),
        "consolidation": (),
        "cardiomegaly": ("secondary_capture",),
    }
    assert [warnings(path) for path in FILES] == [()] * len(FILES)


def test_codes_are_described_and_refused() -> None:
    assert tuple(SENTENCES) == CODES
    assert described(["flat", "later"]) == "flat (the picture has almost no contrast); later"
    assert known_codes(" flat,turned ") == known_codes("turned", "flat,flat") == {"flat", "turned"}
    for wrong in ("", "flat,sharp", ","):
        with pytest.raises(UsageError, match="inverted"):
            known_codes(wrong)
    check_refused(["flat"], {"noise"})
    with pytest.raises(ImageError, match=r"refused: noise \(neighbouring"):
        check_refused(["flat", "noise"], {"noise"})


def test_grey_of_few_levels_of_sixteen_bits_is_warned_of(tmp_path: Path) -> None:
    """Such as 12-bit values that were written unchanged."""
    with Image.open(FILES[0]) as image:
        pixels = np.asarray(image.convert("L")).astype(np.uint16)
    for factor, expected in ((257, ()), (64, ("narrow_range",))):
        for name in ("a.png", "a.tif"):
            Image.fromarray(pixels * factor).save(tmp_path / name)
            assert warnings(tmp_path / name) == expected
