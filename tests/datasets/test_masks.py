"""Masks and boxes as pixels, and their coverage of patches."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lrclr.datasets import Box, Row, check_places, patch_coverage, row_mask
from lrclr.errors import ImageError, UsageError
from lrclr.preprocessing import Geometry, PreprocessSpec, to_canvas

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPECS = [
    PreprocessSpec.clip(),
    PreprocessSpec.chexzero(),
    PreprocessSpec("clip", 32, (0.5,) * 3, (0.5,) * 3, resize=40),
    PreprocessSpec("chexzero", 24, (100.0,) * 3, (80.0,) * 3, canvas=31),
]


def masked(path: Path, bit: int | None = None) -> Row:
    return Row(2, Path("image.png"), masks={"Edema": (path, bit)})


def read(row: Row) -> NDArray[np.bool_]:
    mask = row_mask(row, "Edema", (9, 13))
    assert mask is not None
    return mask


def boxed(*boxes: Box) -> Row:
    return Row(2, Path("image.png"), boxes={"Edema": boxes})


def test_masks_are_read_by_bit_or_by_grey_value(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (9, 13), dtype=np.uint8)
    values[0] = 0
    path = tmp_path / "m.png"
    Image.fromarray(values).save(path)
    for bit in range(8):
        assert np.array_equal(read(masked(path, bit)), values & (1 << bit) != 0)
    assert np.array_equal(read(masked(path)), values > 0)
    # One of 65,535 counts as above 0, although it is black in 8 bits.
    Image.fromarray((values > 99).astype(np.uint16)).save(path)
    assert np.array_equal(read(masked(path)), values > 99)
    Image.fromarray(values > 99).save(path)
    assert np.array_equal(read(masked(path)), values > 99)
    assert row_mask(masked(path), "Mass", (9, 13)) is None


def test_invalid_masks_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.png"
    Image.new("L", (13, 9)).save(path)
    with pytest.raises(ImageError, match="a mask is 9 x 13 and its image 13 x 9"):
        row_mask(masked(path), "Edema", (13, 9))
    with pytest.raises(ImageError, match="a mask is 9 x 13 and its image 13 x 9"):
        check_places(masked(path), (13, 9))
    for mode, bit in (("RGB", None), ("P", None), ("1", 0), ("I;16", 0)):
        Image.new(mode, (13, 9)).save(path)
        with pytest.raises(ImageError, match="a mask is not"):
            row_mask(masked(path, bit), "Edema", (9, 13))
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 130), dtype=np.uint8)).save(path)
    whole = path.read_bytes()
    for content in (b"", b"no picture", whole[:5000]):
        path.write_bytes(content)
        with pytest.raises(ImageError, match="a mask cannot be read"):
            row_mask(masked(path), "Edema", (90, 130))
    with pytest.raises(ImageError, match="a mask cannot be read"):
        row_mask(masked(tmp_path / "none.png"), "Edema", (9, 13))


def test_boxes_cover_the_pixels_whose_centres_are_inside() -> None:
    mask = row_mask(boxed(Box(1, 2, 3, 4), Box(4.4, 0, 5.6, 0.6)), "Edema", (5, 7))
    assert mask is not None
    expected = np.zeros((5, 7), np.bool_)
    expected[2:4, 1:3] = expected[0, 4:6] = True
    assert np.array_equal(mask, expected)
    for tiny, place in (
        (Box(3.6, 2.1, 3.7, 2.2), (2, 3)),
        (Box(6.9, 4.9, 8, 6), (4, 6)),
        (Box(-1, -0.5, 0.1, 0.1), (0, 0)),
    ):
        mask = row_mask(boxed(tiny), "Edema", (5, 7))
        assert mask is not None
        assert np.argwhere(mask).tolist() == [list(place)]
    for outside in (Box(7, 0, 9, 2), Box(-3, 0, 0, 2), Box(0, 5, 1, 7), Box(0, -2, 1, 0), Box(1, 1, 99, 2)):
        for read_place in (check_places, lambda row, shape: row_mask(row, "Edema", shape)):
            with pytest.raises(ImageError, match="a box reaches beyond its image of 5 x 7"):
                read_place(boxed(outside), (5, 7))
    # A box may exceed the image by a hundredth of its side, since annotation tools are that inexact.
    check_places(boxed(Box(0, 0, 1009, 3)), (50, 1000))
    with pytest.raises(ImageError, match="a box reaches beyond its image of 50 x 1000"):
        check_places(boxed(Box(0, 0, 1011, 3)), (50, 1000))


def brute_force(mask: NDArray[np.bool_], geometry: Geometry, patch_size: int) -> NDArray[np.float64]:
    """Coverage, computed pixel by pixel and patch by patch."""
    count = geometry.input_size // patch_size
    shares = np.zeros((count, count))
    for y, x in np.argwhere(mask):
        left, top = geometry.to_input(x, y)
        right, bottom = geometry.to_input(x + 1, y + 1)
        for row in range(count):
            for column in range(count):
                wide = min(right, (column + 1) * patch_size) - max(left, column * patch_size)
                high = min(bottom, (row + 1) * patch_size) - max(top, row * patch_size)
                shares[row, column] += max(wide, 0) * max(high, 0)
    return shares / patch_size**2


@settings(max_examples=80, deadline=None)
@given(
    spec=st.sampled_from(SPECS),
    height=st.integers(2, 14),
    width=st.integers(2, 14),
    patches=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_coverage_equals_the_sum_over_pixels(
    spec: PreprocessSpec, height: int, width: int, patches: int, seed: int
) -> None:
    geometry = spec.geometry(height, width)
    mask = np.random.default_rng(seed).random((height, width)) < 0.3
    size = spec.image_size // patches
    assert np.allclose(patch_coverage(mask, geometry, size), brute_force(mask, geometry, size), atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(height=st.integers(20, 400), width=st.integers(20, 400), spec=st.sampled_from(SPECS[:2]))
def test_coverage_follows_the_preprocessing_of_the_image(height: int, width: int, spec: PreprocessSpec) -> None:
    mask = np.zeros((height, width), np.bool_)
    mask[height // 4 : height // 2, width // 3 : -width // 4] = True
    canvas = to_canvas(mask.astype(np.uint8) * np.uint8(255), spec) / 255
    side = canvas.shape[0]
    # The side of chexzero's canvas is not a multiple of 7.
    seen = canvas.repeat(7, axis=0).repeat(7, axis=1).reshape(7, side, 7, side).mean(axis=(1, 3))
    patch = spec.image_size // 7
    assert np.abs(patch_coverage(mask, spec.geometry(height, width), patch) - seen).max() < 0.05


def test_a_full_mask_covers_everything_but_the_padding() -> None:
    spec = PreprocessSpec.chexzero()
    coverage = patch_coverage(np.ones((320, 160), np.bool_), spec.geometry(320, 160), 32)
    assert coverage.dtype == np.float32
    # Half of the seven columns is padding: columns 0 and 6 completely, columns 1 and 5 to three quarters.
    assert np.allclose(coverage[:, [0, 6]], 0)
    assert np.allclose(coverage[:, [1, 5]], 0.25, atol=1e-6)
    assert np.allclose(coverage[:, 2:5], 1)


def test_a_mask_of_another_image_size_is_refused() -> None:
    geometry = SPECS[0].geometry(30, 40)
    with pytest.raises(UsageError, match="does not belong to an image of 30 x 40"):
        patch_coverage(np.ones((40, 30), np.bool_), geometry, 32)
    for size in (0, -1, 225):
        with pytest.raises(UsageError, match="holds no patch"):
            patch_coverage(np.ones((30, 40), np.bool_), geometry, size)
    assert not patch_coverage(np.zeros((30, 40), np.bool_), geometry, 32).any()


def test_a_mask_and_the_label_0_contradict_each_other(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    Image.fromarray(np.full((9, 13), 2, np.uint8)).save(path)
    bits = {"Mass": (path, 0), "Edema": (path, 1)}
    for masks, label, wrong in (
        ({"Edema": (path, None)}, 0, True),
        ({"Edema": (path, None)}, 1, False),
        ({"Edema": (path, None)}, -1, False),
        (bits, 0, True),
    ):
        row = Row(2, Path("a.png"), labels={"Edema": label, "Mass": 0}, masks=masks)
        if wrong:
            with pytest.raises(ImageError, match="mask and label 'Edema' contradict each other"):
                check_places(row, (9, 13))
        else:
            check_places(row, (9, 13))
