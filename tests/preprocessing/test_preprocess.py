"""Preprocessing, compared with transformers and torch, and the mapping from a patch back to the image."""

from __future__ import annotations

import dataclasses
import functools
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lrclr.errors import ImageError, ImageLimitError, UsageError
from lrclr.preprocessing import PreprocessSpec, preprocess, preprocess_batch

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPECS = {"clip": PreprocessSpec.clip(), "chexzero": PreprocessSpec.chexzero()}
both = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)


def noise(height: int, width: int, *channels: int) -> NDArray[np.uint8]:
    """Noise with flat and saturated parts, so that both rounding and clipping happen."""
    rng = np.random.default_rng([height, width, *channels])
    image = rng.integers(0, 256, (height, width, *channels), dtype=np.uint8)
    image[: height // 3] = 255
    image[:, : width // 3] = 0
    return image


def grey_as_rgb(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(image[..., None], 3, axis=2)


@functools.lru_cache(maxsize=4)
def _transformers(**options: Any) -> Any:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    return CLIPImageProcessorPil(**options)


def transformers_clip(image: NDArray[np.uint8], resize: int = 224, crop: int = 224) -> NDArray[np.float32]:
    processor = _transformers(size=resize, crop_size=crop)
    pixels: NDArray[np.float32] = processor(Image.fromarray(image))["pixel_values"][0]
    assert pixels.dtype == np.float32
    return pixels


# Measured: 2e-6. Torch without fused multiply-add rounds positions once more, which changes noise by 4e-5.
TORCH_TOLERANCE = 6e-5


def torch_chexzero(image: NDArray[np.uint8], size: int = 224) -> NDArray[np.float32]:
    """CheXzero's preprocessing as published, with torch for the last step."""
    import torch

    picture = Image.fromarray(image).convert("RGB")
    ratio = 320.0 / max(picture.size)
    width, height = (int(side * ratio) for side in picture.size)
    canvas = Image.new("L", (320, 320))
    resized = picture.resize((width, height), Image.Resampling.LANCZOS).convert("L")
    canvas.paste(resized, ((320 - width) // 2, (320 - height) // 2))
    pixels = torch.from_numpy(np.array(canvas, dtype=np.float32)).expand(1, 3, -1, -1)
    pixels = (pixels - 101.48761) / 83.43944
    pixels = torch.nn.functional.interpolate(pixels, (size, size), mode="bicubic", align_corners=False, antialias=False)
    return pixels[0].numpy()


# Square, tall, wide, odd, tiny, enlarged, already the right size, and a strip.
SIZES = [
    (224, 224),
    (640, 513),
    (300, 417),
    (1, 1),
    (2, 3),
    (37, 91),
    (225, 224),
    (224, 223),
    (319, 320),
    (9, 450),
    (450, 9),
]


@pytest.mark.parametrize("size", SIZES)
def test_clip_equals_transformers_float_for_float(size: tuple[int, int]) -> None:
    for image in (noise(*size), noise(*size, 3)):
        pixels = preprocess(image, SPECS["clip"])
        assert pixels.dtype == np.float32
        assert pixels.flags.c_contiguous
        np.testing.assert_array_equal(pixels, transformers_clip(image))


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40), st.integers(1, 40), st.sampled_from([(), (3,)]))
def test_clip_equals_transformers_for_any_size_and_any_crop(
    height: int, width: int, resize: int, crop: int, channels: tuple[int, ...]
) -> None:
    # A crop larger than the resized image is padded with black. With an odd remainder, one side gets one pixel more.
    spec = dataclasses.replace(PreprocessSpec.clip(crop), resize=resize)
    image = noise(height, width, *channels)
    np.testing.assert_array_equal(preprocess(image, spec), transformers_clip(image, resize, crop))


@pytest.mark.parametrize("size", [*SIZES[:-2], (2000, 1700), (9, 600), (600, 9), (321, 160)])
def test_chexzero_equals_torch(size: tuple[int, int]) -> None:
    for image in (noise(*size), noise(*size, 3)):
        pixels = preprocess(image, SPECS["chexzero"])
        assert pixels.dtype == np.float32
        assert pixels.flags.c_contiguous
        np.testing.assert_allclose(pixels, torch_chexzero(image), rtol=0, atol=TORCH_TOLERANCE)


@pytest.mark.parametrize("size", [(303, 303), (616, 500), (366, 488), (98, 490)])
def test_chexzero_rounds_sides_in_floating_point(size: tuple[int, int]) -> None:
    # 303 * (320 / 303) is slightly below 320, so the canvas keeps a black line. Integer arithmetic would differ.
    image = noise(*size)
    np.testing.assert_allclose(
        preprocess(image, SPECS["chexzero"]), torch_chexzero(image), rtol=0, atol=TORCH_TOLERANCE
    )


def test_chexzero_equals_torch_on_the_sharpest_image() -> None:
    image = np.random.default_rng(0).integers(0, 256, (320, 320), dtype=np.uint8)
    np.testing.assert_allclose(
        preprocess(image, SPECS["chexzero"]), torch_chexzero(image), rtol=0, atol=TORCH_TOLERANCE
    )


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 700), st.integers(1, 700), st.sampled_from([32, 96, 224, 320, 384]))
def test_chexzero_equals_torch_for_any_size(height: int, width: int, size: int) -> None:
    if max(height, width) / min(height, width) < 300:
        image = noise(height, width, 3)
        pixels = preprocess(image, PreprocessSpec.chexzero(size))
        np.testing.assert_allclose(pixels, torch_chexzero(image, size), rtol=0, atol=TORCH_TOLERANCE)


def test_chexzero_pads_with_black_and_keeps_the_scale_of_0_to_255() -> None:
    pixels = preprocess(np.full((400, 200), 255, np.uint8), SPECS["chexzero"])
    assert pixels[:, :, :40] == pytest.approx(-1.2163, abs=1e-4)
    assert pixels[:, 100, 112] == pytest.approx((255 - 101.48761) / 83.43944, abs=1e-5)
    assert pixels.max() > 1.84  # bicubic interpolation overshoots at the edge and is not clipped


def test_clip_pads_with_zeros_before_the_normalisation() -> None:
    spec = dataclasses.replace(PreprocessSpec.clip(), resize=100)
    pixels = preprocess(np.full((100, 100), 255, np.uint8), spec)
    for channel, (mean, std) in enumerate(zip(spec.mean, spec.std, strict=True)):
        assert pixels[channel, 0, 0] == pytest.approx(-mean / std)
        assert pixels[channel, 112, 112] == pytest.approx((1 - mean) / std)


@both
@pytest.mark.parametrize("size", SIZES[:-2])
def test_grey_equals_rgb_with_equal_channels(spec: PreprocessSpec, size: tuple[int, int]) -> None:
    grey = noise(*size)
    np.testing.assert_array_equal(preprocess(grey, spec), preprocess(grey_as_rgb(grey), spec))


@both
def test_a_view_is_read_correctly_and_not_changed(spec: PreprocessSpec) -> None:
    image = noise(300, 400)
    view = image[::-2, ::3]
    before = image.copy()
    np.testing.assert_array_equal(preprocess(view, spec), preprocess(view.copy(), spec))
    np.testing.assert_array_equal(image, before)


@both
def test_a_batch_equals_its_images(spec: PreprocessSpec) -> None:
    images = [noise(300, 200), noise(50, 60, 3), noise(224, 224)]
    batch = preprocess_batch(images, spec)
    assert batch.shape == (3, 3, 224, 224)
    for pixels, image in zip(batch, images, strict=True):
        np.testing.assert_array_equal(pixels, preprocess(image, spec))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((9, 9), np.float32), "array of uint8, not float32"),
        (np.zeros((9, 9), np.uint16), "array of uint8, not uint16"),
        ([[1]], "array of uint8, not list"),
        (np.zeros(9, np.uint8), r"shape \[H, W\] or \[H, W, 3\], not \[9\]"),
        (np.zeros((9, 9, 4), np.uint8), r"not \[9, 9, 4\]"),
        (np.zeros((9, 9, 1), np.uint8), r"not \[9, 9, 1\]"),
        (np.zeros((1, 9, 9, 3), np.uint8), r"not \[1, 9, 9, 3\]"),
        (np.zeros((0, 9), np.uint8), "0 x 9 has no pixels"),
        (np.zeros((9, 0, 3), np.uint8), "9 x 0 has no pixels"),
    ],
)
@both
def test_an_invalid_array_is_refused(spec: PreprocessSpec, image: Any, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        preprocess(image, spec)
    with pytest.raises(ImageError, match=f"image 2 of 2: .*{message}"):
        preprocess_batch([noise(9, 9), image], spec)


def test_images_that_are_too_narrow_are_refused() -> None:
    with pytest.raises(ImageError, match="2 x 900 is too narrow: it vanishes"):
        preprocess(noise(2, 900), SPECS["chexzero"])
    with pytest.raises(ImageLimitError, match="1 x 5000 is too narrow"):
        preprocess(noise(1, 5000), SPECS["clip"])
    with pytest.raises(ImageLimitError, match="image 1 of 1"):
        preprocess_batch([noise(1, 5000)], SPECS["clip"])


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(UsageError, match="no images"):
        preprocess_batch([], SPECS["clip"])


# --- from patches back to the image ---

specs = st.one_of(
    st.builds(
        lambda size, resize: dataclasses.replace(PreprocessSpec.clip(size), resize=resize),
        st.integers(16, 64),
        st.integers(16, 80),
    ),
    st.builds(PreprocessSpec.chexzero, st.sampled_from([56, 112, 224])),
)
sides = st.integers(20, 500)
fractions = st.floats(0, 1)


@settings(deadline=None)
@given(specs, sides, sides, fractions, fractions)
def test_coordinates_round_trip(spec: PreprocessSpec, height: int, width: int, x: float, y: float) -> None:
    geometry = spec.geometry(height, width)
    there = geometry.to_input(x * width, y * height)
    assert geometry.to_image(*there) == pytest.approx((x * width, y * height), abs=1e-6)
    back = geometry.to_image(x * spec.image_size, y * spec.image_size)
    assert geometry.to_input(*back) == pytest.approx((x * spec.image_size, y * spec.image_size), abs=1e-6)


@settings(deadline=None)
@given(specs, sides, sides)
def test_boxes_cover_the_visible_image_without_overlap(spec: PreprocessSpec, height: int, width: int) -> None:
    spec = dataclasses.replace(spec, image_size=spec.image_size // 8 * 8)
    geometry = spec.geometry(height, width)
    boxes = [geometry.box(n, 8) for n in range((spec.image_size // 8) ** 2)]
    area = 0.0
    for left, top, right, bottom in boxes:
        assert 0 <= left <= right <= width
        assert 0 <= top <= bottom <= height
        area += (right - left) * (bottom - top)
    left, top = (max(v, 0.0) for v in geometry.to_image(0, 0))
    right, bottom = geometry.to_image(spec.image_size, spec.image_size)
    assert area == pytest.approx((min(right, width) - left) * (min(bottom, height) - top), rel=1e-6)


@settings(deadline=None, max_examples=80)
@given(specs, st.integers(60, 500), st.integers(60, 500), fractions, fractions)
def test_a_bright_dot_appears_where_the_geometry_says(
    spec: PreprocessSpec, height: int, width: int, x: float, y: float
) -> None:
    geometry = spec.geometry(height, width)
    # Large enough to survive the reduction, and away from the borders, where it would be cut.
    radius = max(2.0, 1 / geometry.scale_x, 1 / geometry.scale_y)
    x, y = (2 * radius + fraction * (side - 4 * radius) for fraction, side in ((x, width), (y, height)))
    rows, columns = np.mgrid[:height, :width] + 0.5
    image = np.where(np.hypot(columns - x, rows - y) <= radius, 255, 0).astype(np.uint8)
    # The drawn position, which on a grid of pixels differs slightly from the intended one.
    x, y = (float((image * place).sum() / image.sum()) for place in (columns, rows))
    expected = geometry.to_input(x, y)
    margin = radius * max(geometry.scale_x, geometry.scale_y)
    if all(margin <= value <= spec.image_size - margin for value in expected):
        # The centre of mass of the reduced dot. Its brightest pixel alone is exact to half a pixel at best.
        light = preprocess(image, spec)[0].astype(np.float64)
        light = np.clip(light - light.min(), 0, None)
        light[light < light.max() / 3] = 0
        rows, columns = np.mgrid[: spec.image_size, : spec.image_size] + 0.5
        found = (light * columns).sum() / light.sum(), (light * rows).sum() / light.sum()
        assert found == pytest.approx(expected, abs=0.75)


@both
@pytest.mark.parametrize("size", [(512, 512), (700, 512), (512, 700), (900, 400), (411, 1037)])
def test_a_dot_in_the_middle_of_a_box_appears_in_its_patch(spec: PreprocessSpec, size: tuple[int, int]) -> None:
    geometry = spec.geometry(*size)
    seen = 0
    for patch in range(49):
        left, top, right, bottom = geometry.box(patch, 32)
        if right - left < 20 or bottom - top < 20:
            continue
        image = np.zeros(size, np.uint8)
        x, y = int((left + right) / 2), int((top + bottom) / 2)
        image[y - 3 : y + 4, x - 3 : x + 4] = 255
        row, column = np.unravel_index(int(preprocess(image, spec)[0].argmax()), (224, 224))
        assert row // 32 * 7 + column // 32 == patch
        seen += 1
    assert seen >= 20


def test_clip_geometry_equals_a_hand_calculation() -> None:
    # 448 x 896 becomes 224 x 448, of which columns 112 to 336 are kept.
    geometry = PreprocessSpec.clip().geometry(448, 896)
    assert geometry.to_input(448, 0) == (112, 0)
    assert geometry.to_image(0, 0) == (224, 0)
    assert geometry.box(0, 32) == (224, 0, 288, 64)
    assert geometry.box(48, 32) == (608, 384, 672, 448)


def test_chexzero_geometry_equals_a_hand_calculation() -> None:
    # 640 x 320 becomes 320 x 160 with 80 black columns on both sides: 56 of the input's 224.
    geometry = PreprocessSpec.chexzero().geometry(640, 320)
    assert geometry.to_input(0, 0) == pytest.approx((56, 0))
    assert geometry.to_image(112, 112) == pytest.approx((160, 320))
    assert geometry.box(1, 32) == pytest.approx((0, 0, 320 / 224 * 16, 640 / 7))
    left, top, right, bottom = geometry.box(0, 32)
    assert (left, right) == (0, 0)
    assert bottom > top


@pytest.mark.parametrize(("patch", "size"), [(-1, 32), (49, 32), (0, 0), (0, -1), (0, 225)])
def test_a_patch_outside_the_grid_is_refused(patch: int, size: int) -> None:
    with pytest.raises(UsageError, match=f"no patch {patch}"):
        PreprocessSpec.clip().geometry(100, 100).box(patch, size)


def test_geometry_refuses_the_same_sizes_as_preprocess() -> None:
    with pytest.raises(ImageError, match="no pixels"):
        PreprocessSpec.clip().geometry(0, 5)
    with pytest.raises(ImageError, match="too narrow"):
        PreprocessSpec.chexzero().geometry(1, 5000)


# --- configuration ---


@pytest.mark.parametrize(
    "spec",
    [
        PreprocessSpec.clip(),
        PreprocessSpec.chexzero(336),
        dataclasses.replace(PreprocessSpec.clip(224), resize=256),
        PreprocessSpec("chexzero", 224, (0.1,) * 3, (1 / 3,) * 3, canvas=512),
    ],
)
def test_a_spec_survives_json(spec: PreprocessSpec) -> None:
    assert PreprocessSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert hash(PreprocessSpec.from_dict(spec.to_dict())) == hash(spec)


CLIP, CHEXZERO = PreprocessSpec.clip().to_dict(), PreprocessSpec.chexzero().to_dict()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "must be a table of keys, not list"),
        ({}, "lacks 'image_size', 'kind', 'mean', 'resize', 'std'"),
        ({k: v for k, v in CLIP.items() if k != "std"}, "lacks 'std'"),
        (CLIP | {"gamma": 1, "beta": 2}, "has unknown 'beta', 'gamma'"),
        (CLIP | {"canvas": 320}, "has unknown 'canvas'"),
        (CHEXZERO | {"resize": 224}, "has unknown 'resize'"),
        (CLIP | {"kind": "dino"}, "kind = 'dino'.*one of 'clip', 'chexzero' and 'squash'"),
        (CLIP | {"kind": ["clip"]}, "kind = "),
        (CLIP | {"image_size": "224"}, "image_size = '224'.*whole number"),
        (CLIP | {"image_size": 224.0}, "image_size = 224.0"),
        (CLIP | {"image_size": True}, "image_size = True"),
        (CLIP | {"image_size": 0}, "image_size = 0.*from 1 to 4096"),
        (CLIP | {"image_size": 5000}, "image_size = 5000"),
        (CLIP | {"resize": "x"}, "resize = 'x'"),
        (CHEXZERO | {"canvas": -1}, "canvas = -1"),
        (CLIP | {"mean": 0.5}, "mean = 0.5.*three finite numbers"),
        (CLIP | {"mean": [0.5, 0.5]}, r"mean = \(0.5, 0.5\)"),
        (CLIP | {"mean": [0.5, 0.5, "0.5"]}, "mean = "),
        (CLIP | {"mean": [0.5, 0.5, float("nan")]}, "mean = "),
        (CLIP | {"mean": [0.5, 0.5, 10**400]}, "mean = "),
        (CLIP | {"std": [1.0, 1.0, 0.0]}, "std = .*above zero"),
        (CHEXZERO | {"mean": [1.0, 2.0, 3.0]}, "cannot differ in mean or std"),
    ],
)
def test_from_dict_names_the_refused_value(values: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        PreprocessSpec.from_dict(values)


def test_a_setting_of_the_other_recipe_is_refused() -> None:
    with pytest.raises(UsageError, match="canvas = 320"):
        dataclasses.replace(PreprocessSpec.clip(), canvas=320)
    with pytest.raises(UsageError, match="resize = 224"):
        dataclasses.replace(PreprocessSpec.chexzero(), resize=224)


def test_transformers_own_configuration_is_read() -> None:
    written = json.loads(_transformers().to_json_string())
    assert PreprocessSpec.from_transformers(written) == PreprocessSpec.clip()
    other = _transformers(size=256, crop_size=240, do_normalize=False)
    spec = PreprocessSpec.from_transformers(json.loads(other.to_json_string()))
    image = noise(300, 500, 3)
    np.testing.assert_array_equal(preprocess(image, spec), other(Image.fromarray(image))["pixel_values"][0])


# The form of the first CLIP checkpoints.
OLD = {
    "crop_size": 224,
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.1, 0.2, 0.3],
    "resample": 3,
    "size": 256,
}


def test_an_old_configuration_is_read() -> None:
    spec = PreprocessSpec.from_transformers(OLD)
    assert spec == PreprocessSpec("clip", 224, (0.5, 0.4, 0.3), (0.1, 0.2, 0.3), resize=256)
    assert PreprocessSpec.from_transformers({}) == PreprocessSpec.clip()
    newer = {"size": {"shortest_edge": 256, "longest_edge": None}, "crop_size": {"height": 224, "width": 224}}
    rest = {"do_convert_rgb": True, "rescale_factor": 1 / 255, "do_pad": None, "use_square_size": False}
    assert PreprocessSpec.from_transformers(OLD | newer | rest) == spec


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"do_resize": False}, "do_resize = False"),
        ({"do_center_crop": False}, "do_center_crop = False"),
        ({"do_rescale": False}, "do_rescale = False"),
        ({"resample": 2}, "resample = 2"),
        ({"rescale_factor": 1 / 127.5}, "rescale_factor = 0.0078"),
        ({"rescale_factor": None}, "rescale_factor = None"),
        ({"size": {"height": 224, "width": 224}}, "size = .*shortest_edge"),
        ({"size": {"shortest_edge": 224, "longest_edge": 300}}, "size = "),
        ({"size": "224"}, "size = '224'"),
        ({"crop_size": {"height": 224, "width": 200}}, "crop_size = "),
        ({"crop_size": {"shortest_edge": 224}}, "crop_size = "),
        ({"crop_size": True}, "crop_size = True"),
        ({"image_mean": 0.5}, "image_mean = 0.5"),
        ({"image_std": [1.0]}, "image_std = "),
        ({"image_std": [1.0, 0.0, 1.0]}, "std = "),
        ({"do_pad": True}, "do_pad = True"),
        ({"auto_map": {"a": "b"}}, "auto_map = "),
        ({"data_format": "channels_last"}, "data_format = 'channels_last'"),
        ({"image_processor_type": "DPTImageProcessor"}, "image_processor_type = 'DPTImageProcessor'"),
        ({"feature_extractor_type": "DPTFeatureExtractor"}, "feature_extractor_type = 'DPTFeatureExtractor'"),
    ],
)
def test_from_transformers_names_an_unsupported_key(change: dict[str, Any], key: str) -> None:
    with pytest.raises(UsageError, match=key):
        PreprocessSpec.from_transformers(OLD | change)


@pytest.mark.parametrize(
    ("values", "resample"),
    [
        ({"image_processor_type": "SiglipImageProcessor"}, "bicubic"),
        ({"image_processor_type": "SiglipImageProcessorFast", "resample": 2, "do_center_crop": None}, "bilinear"),
        ({"image_processor_type": "ViTImageProcessor"}, "bilinear"),
        ({"image_processor_type": "ViTImageProcessor", "resample": 3, "do_center_crop": False}, "bicubic"),
    ],
)
def test_squashing_configurations_are_read(values: dict[str, Any], resample: str) -> None:
    spec = PreprocessSpec.from_transformers(values | {"size": {"height": 64, "width": 64}})
    assert spec == PreprocessSpec("squash", 64, (0.5,) * 3, (0.5,) * 3, resample=resample)  # type: ignore[arg-type]
    assert PreprocessSpec.from_dict(spec.to_dict()) == spec


@pytest.mark.parametrize("shape", [(50, 90), (300, 64), (64, 64), (7, 200, 3)])
@pytest.mark.parametrize("resample", ["bicubic", "bilinear"])
def test_a_squashed_image_equals_siglips(shape: tuple[int, ...], resample: str) -> None:
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    spec = PreprocessSpec("squash", 64, (0.5,) * 3, (0.5,) * 3, resample=resample)  # type: ignore[arg-type]
    processor = SiglipImageProcessorPil(
        size={"height": 64, "width": 64}, resample=Image.Resampling[resample.upper()], do_convert_rgb=True
    )
    wanted = processor(Image.fromarray(image).convert("RGB"))["pixel_values"][0]
    np.testing.assert_array_equal(preprocess(image, spec), wanted)
    geometry = spec.geometry(*shape[:2])
    assert geometry.to_image(64, 64) == pytest.approx((shape[1], shape[0]))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"do_center_crop": True}, "do_center_crop = True"),
        ({"resample": 0}, "resample = 0"),
        ({"size": {"height": 64, "width": 32}}, "size = "),
        ({"do_rescale": False}, "do_rescale = False"),
        ({"do_pad": True}, "do_pad = True"),
    ],
)
def test_unsupported_settings_of_a_squashing_processor_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        PreprocessSpec.from_transformers({"image_processor_type": "SiglipImageProcessor", **values})
