"""Arrays and Pillow images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

import lrclr.images
from lrclr.errors import ImageError, ImageLimitError, UsageError
from lrclr.images import ReadLimits, read_image

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, max_side=9)


def test_public_names() -> None:
    assert {"ReadLimits", "ReducedImage", "find_images", "read_for_model", "read_image"} < set(lrclr.images.__all__)


@given(hnp.arrays(np.uint8, SHAPES))
def test_uint8_is_copied_unchanged(array: NDArray[np.uint8]) -> None:
    picture = read_image(array)
    np.testing.assert_array_equal(picture, array)
    assert picture.dtype == np.uint8
    assert picture.flags.c_contiguous
    assert picture.flags.writeable
    assert not np.shares_memory(picture, array)


@given(hnp.arrays(st.sampled_from([np.dtype("<u2"), np.dtype(">u2")]), SHAPES))
def test_uint16_is_scaled_over_its_full_range_with_rounding(array: NDArray[np.uint16]) -> None:
    np.testing.assert_array_equal(read_image(array), np.rint(array / 257))


@given(hnp.arrays(st.sampled_from([np.float32, np.float64]), SHAPES, elements=st.floats(0, 1, width=32)))
def test_floats_from_0_to_1_are_scaled_with_rounding(array: NDArray[Any]) -> None:
    np.testing.assert_array_equal(read_image(array), np.rint(array.astype(np.float64) * 255))


def test_bool_is_black_and_white() -> None:
    assert read_image(np.array([[True, False]])).tolist() == [[255, 0]]


def test_one_channel_is_grey_and_three_are_kept() -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    np.testing.assert_array_equal(read_image(array), array)
    np.testing.assert_array_equal(read_image(array[:, :, :1]), array[:, :, 0])


def test_the_fourth_channel_is_opacity_on_black() -> None:
    array = np.array([[[200, 100, 51, 255], [200, 100, 51, 0], [200, 100, 51, 128]]], dtype=np.uint8)
    assert read_image(array).tolist() == [[[200, 100, 51], [0, 0, 0], [100, 50, 26]]]


def test_a_view_that_is_not_contiguous_is_read_correctly() -> None:
    array = np.arange(12, dtype=np.uint8).reshape(3, 4)
    picture = read_image(array.T[::-1])
    np.testing.assert_array_equal(picture, array.T[::-1])
    assert picture.flags.c_contiguous


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.array([[0.5, np.nan]]), ["not a number"]),
        (np.array([[0.5, np.inf]]), ["outside 0 to 1", "uint16"]),
        (np.array([[0.0, 255.0]]), ["outside 0 to 1", "uint16"]),
        (np.array([[-0.1, 0.5]]), ["outside 0 to 1"]),
        (np.zeros((4, 4), dtype=np.int32), ["int32", "uint8"]),
        (np.zeros((4, 4), dtype=np.complex128), ["complex128"]),
        (np.full((2, 2), "x"), ["<U1"]),
        (np.zeros((3, 40, 50), dtype=np.uint8), ["(3, 40, 50)", "transpose(1, 2, 0)", "(40, 50, 3)"]),
        (np.zeros((4, 40, 50, 3), dtype=np.uint8), ["(4, 40, 50, 3)", "one image"]),
        (np.zeros((4, 4, 2), dtype=np.uint8), ["(4, 4, 2)"]),
        (np.zeros(7, dtype=np.uint8), ["(7,)"]),
        (np.zeros((0, 5), dtype=np.uint8), ["empty"]),
        (np.zeros((5, 0, 3), dtype=np.uint8), ["empty"]),
    ],
)
def test_an_array_that_is_not_an_image_is_refused_with_a_reason(array: NDArray[Any], words: list[str]) -> None:
    with pytest.raises(ImageError) as caught:
        read_image(array)
    for word in words:
        assert word in str(caught.value)


def test_the_pixel_limit_applies_to_arrays_and_pillow_images() -> None:
    limits = ReadLimits(max_pixels=99)
    with pytest.raises(ImageLimitError, match="10 pixels high and 10 wide"):
        read_image(np.zeros((10, 10), dtype=np.uint8), limits=limits)
    with pytest.raises(ImageLimitError, match="10 pixels high and 10 wide"):
        read_image(Image.new("L", (10, 10)), limits=limits)
    assert read_image(np.zeros((9, 11), dtype=np.uint8), limits=limits).shape == (9, 11)


def test_arrays_have_only_frame_0() -> None:
    array = np.zeros((2, 2), dtype=np.uint8)
    assert read_image(array, frame=0).shape == (2, 2)
    with pytest.raises(ImageError, match="frame 1 does not exist"):
        read_image(array, frame=1)


@pytest.mark.parametrize("frame", [-1, 1.0, "0", True])
def test_a_frame_must_be_a_whole_number(frame: Any) -> None:
    with pytest.raises(UsageError, match="an integer from 0"):
        read_image(np.zeros((2, 2), dtype=np.uint8), frame=frame)


@pytest.mark.parametrize("values", [{"max_bytes": 0}, {"max_pixels": -1}, {"max_pixels": 1.5}, {"max_bytes": True}])
def test_limits_must_be_positive_whole_numbers(values: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(values))):
        ReadLimits(**values)


def test_pillow_images_of_common_modes_are_read() -> None:
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    image = Image.fromarray(grey)
    np.testing.assert_array_equal(read_image(image), grey)
    for mode in ("RGB", "RGBA", "CMYK", "P"):
        picture = read_image(image.convert(mode))
        assert picture.shape == (3, 4, 3), mode
        assert np.abs(picture.astype(int) - grey[:, :, None]).max() <= 1, mode
    np.testing.assert_array_equal(read_image(image.convert("LA")), grey)
    np.testing.assert_array_equal(read_image(image.point(lambda value: 255 * (value > 99), "1")), 255 * (grey > 99))


def test_deep_pillow_images_are_scaled_over_16_bits() -> None:
    levels = np.array([[0, 128, 129, 32768, 65535]])
    expected = np.rint(levels / 257)
    for array in (levels.astype(np.uint16), levels.astype(np.int32)):
        np.testing.assert_array_equal(read_image(Image.fromarray(array)), expected)
    np.testing.assert_array_equal(read_image(Image.fromarray(levels.astype(np.float32) / 65535)), expected)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (Image.fromarray(np.array([[-1, 5]], dtype=np.int32)), "signed and 32-bit"),
        (Image.fromarray(np.array([[0, 65536]], dtype=np.int32)), "signed and 32-bit"),
        (Image.fromarray(np.array([[0.0, 2.0]], dtype=np.float32)), "outside 0 to 1"),
        (Image.new("HSV", (2, 2)), "mode HSV"),
        (Image.new("L", (0, 2)), "empty"),
    ],
)
def test_pillow_images_of_undefined_range_are_refused(image: Image.Image, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        read_image(image)


def test_a_pillow_image_is_not_changed() -> None:
    image = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3))
    exif = image.getexif()
    exif[0x0112] = 6
    picture = read_image(image)
    np.testing.assert_array_equal(picture, np.rot90(np.arange(6).reshape(2, 3), k=-1))
    assert image.size == (3, 2)
    assert image.getexif()[0x0112] == 6
