"""`read_reduced`: after preprocessing, the result equals that of the full picture within a few grey levels."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000, ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from lrclr.errors import ImageError
from lrclr.images import ReducedImage, read_image, read_reduced

# Private: whether the fast path was used cannot be seen from outside.
from lrclr.images._codestream import jpeg2000_coding
from lrclr.images._packets import bands_of
from lrclr.images._png import inflated_png
from lrclr.preprocessing import PreprocessSpec, preprocess, to_canvas
from tests.grids import every_other
from tests.images.test_images_dicom import compressed
from tests.raster_files import encode

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from tests.images.conftest import MakeDicom

RECIPES = [PreprocessSpec.clip(48), PreprocessSpec("chexzero", 48, (101.5,) * 3, (83.4,) * 3, canvas=64)]
# For the pictures below, these recipes leave out one or three levels of the wavelet transform.
OTHER_RECIPES = [PreprocessSpec.clip(24), PreprocessSpec("chexzero", 48, (101.5,) * 3, (83.4,) * 3, canvas=128)]
SIZE = (523, 437)


def radiograph(height: int, width: int, *, letters: bool = False) -> NDArray[np.uint16]:
    """A 12-bit picture with soft shapes, noise and a collimated edge, optionally with burnt-in letters."""
    rows, columns = np.mgrid[:height, :width]
    soft = 1800 + 900 * np.sin(rows / 61) * np.cos(columns / 47) + 500 * np.sin(columns / 23 + rows / 31)
    soft += np.random.default_rng(7).normal(0, 25, soft.shape)
    soft[:, : width // 12] = 30
    levels: NDArray[np.uint16] = np.rint(np.clip(soft, 0, 4095)).astype(np.uint16)
    if letters:
        label = Image.new("L", (width, height))
        draw = ImageDraw.Draw(label)
        draw.text((width // 3, height // 8), "R AP", fill=255, font=ImageFont.load_default(height / 14))
        draw.line((width // 2, height // 2, width * 3 // 4, height - 9), fill=255, width=2)
        levels[np.asarray(label) > 127] = 4095
    return levels


def grey(pixels: NDArray[np.uint16]) -> Image.Image:
    return Image.fromarray((pixels >> 4).astype(np.uint8))


def wavelet(data: bytes, **options: Any) -> bytes:
    """A DICOM file of 16 bits as JPEG 2000, written by Pillow."""
    dataset = pydicom.dcmread(io.BytesIO(data))
    frame = encode(Image.fromarray(dataset.pixel_array), "JPEG2000", no_jp2=True, **options)
    dataset.file_meta.TransferSyntaxUID = JPEG2000
    dataset.PixelData = encapsulate([frame])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def compare_reading(data: bytes, spec: PreprocessSpec, **options: Any) -> ReducedImage:
    """Compare both ways of reading, and return the result of `read_reduced`."""
    return compare_reading_for_recipes(data, [spec], **options)[0]


def compare_reading_for_recipes(data: bytes, specs: list[PreprocessSpec], **options: Any) -> list[ReducedImage]:
    """`compare_reading` for several recipes. The full picture is decoded only once."""
    whole, found = read_image(data, **options), []
    for spec in specs:
        reduced = read_reduced(data, spec, **options)
        assert (reduced.height, reduced.width) == whole.shape[:2]
        expected, got = to_canvas(whole, spec).astype(int), to_canvas(reduced, spec).astype(int)
        assert np.abs(got - expected).max() <= 4
        assert np.abs(got - expected).mean() <= 0.5
        # The same comparison after all of preprocessing, in grey levels.
        unit = np.array(spec.std).reshape(3, 1, 1) * (255 if spec.kind == "clip" else 1)
        final = np.abs(preprocess(reduced, spec) - preprocess(whole, spec)) * unit
        # These values are rounded to float32.
        assert final.max() <= 4 + 1e-3
        assert final.mean() <= 0.5
        found.append(reduced)
    return found


SIZES = st.tuples(st.integers(520, 600), st.integers(520, 600))
RASTERS = {
    "png": lambda p: encode(grey(p), "PNG", compress_level=1),
    "png deep": lambda p: encode(Image.fromarray(p << 4), "PNG", compress_level=1),
    "png colour": lambda p: encode(Image.merge("RGB", [grey(p), grey(p // 2), grey(p)]), "PNG", compress_level=1),
    "png palette": lambda p: encode(grey(p).convert("P"), "PNG", compress_level=1),
    "png alpha": lambda p: encode(Image.merge("LA", [grey(p), grey(4095 - p)]), "PNG", compress_level=1),
    "jpeg": lambda p: encode(grey(p), "JPEG", quality=92),
    "jpeg progressive": lambda p: encode(grey(p), "JPEG", progressive=True),
    "jpeg colour": lambda p: encode(Image.merge("RGB", [grey(p), grey(p // 2), grey(p)]), "JPEG", quality=92),
    "jpeg cmyk": lambda p: encode(grey(p).convert("CMYK"), "JPEG", quality=92),
    "tiff deep": lambda p: encode(Image.fromarray(p << 4), "TIFF", compression="tiff_lzw"),
    "tiff bilevel": lambda p: encode(grey(p).convert("1"), "TIFF"),
}


@settings(max_examples=3, deadline=None)
@given(size=SIZES, orientation=st.integers(0, 9), spec=st.sampled_from(RECIPES))
@pytest.mark.parametrize("name", [name for name in sorted(RASTERS) if name != "tiff bilevel"])
def test_rasters_of_every_kind_size_and_orientation_agree(
    name: str, size: tuple[int, int], orientation: int, spec: PreprocessSpec
) -> None:
    data = RASTERS[name](radiograph(*size))
    if "tiff" in name:
        # libtiff writes no other orientations.
        orientation = min(max(orientation, 1), 8)
    if orientation != 1:
        exif = Image.Exif()
        exif[0x0112] = orientation
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            options = {"quality": 92} if "jpeg" in name else {}
            data = encode(image.copy(), str(image.format), exif=exif, **options)
    np.testing.assert_array_equal(compare_reading(data, spec).pixels, read_image(data))


WINDOWS: dict[str, dict[str, Any]] = {
    "none": {},
    "full": {"WindowCenter": 2048, "WindowWidth": 4096},
    "wide": {"WindowCenter": 2048, "WindowWidth": 6000},
    "narrow": {"WindowCenter": 1500, "WindowWidth": 900},
    "sigmoid": {"WindowCenter": 1800, "WindowWidth": 1500, "VOILUTFunction": "SIGMOID"},
    "rescaled": {"WindowCenter": 0, "WindowWidth": 2048, "RescaleSlope": 0.5, "RescaleIntercept": -1024},
    "padded": {"WindowCenter": 2048, "WindowWidth": 4096, "PixelPaddingValue": 30},
    "inverse": {"WindowCenter": 2048, "WindowWidth": 4096, "PresentationLUTShape": "INVERSE"},
}


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(size=(520, 577), window="full", photometric="MONOCHROME1", letters=True, signed=False, spec=RECIPES[-1])
@given(
    size=SIZES,
    window=st.sampled_from(sorted(WINDOWS)),
    photometric=st.sampled_from(["MONOCHROME1", "MONOCHROME2"]),
    letters=st.booleans(),
    signed=st.booleans(),
    spec=st.sampled_from(RECIPES),
)
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless])
def test_dicom_files_of_every_size_window_and_sign_agree(
    make_dicom: MakeDicom,
    syntax: str,
    size: tuple[int, int],
    window: str,
    photometric: str,
    letters: bool,
    signed: bool,
    spec: PreprocessSpec,
) -> None:
    pixels = radiograph(*size, letters=letters)
    attributes = dict(WINDOWS[window])
    if signed:
        shift = attributes.get("RescaleSlope", 1)
        for keyword in {"WindowCenter", "PixelPaddingValue"} & attributes.keys():
            attributes[keyword] -= int(2048 * (shift if keyword == "WindowCenter" else 1))
    stored = pixels.astype(np.int16) - 2048 if signed else pixels
    data = make_dicom(stored, BitsStored=12, PhotometricInterpretation=photometric, **attributes)
    if syntax != ExplicitVRLittleEndian:
        data = compressed(data, syntax)
    compare_reading(data, spec)


@pytest.mark.parametrize(
    ("size", "bits", "irreversible"), every_other([(512, 512), (513, 514), (515, 449)], [8, 12, 16], [False, True])
)
def test_jpeg_2000_is_decoded_at_a_lower_resolution(
    make_dicom: MakeDicom, size: tuple[int, int], bits: int, irreversible: bool
) -> None:
    levels = radiograph(*size)
    pixels = (levels >> 4).astype(np.uint8) if bits == 8 else levels << (bits - 12)
    window: dict[str, Any] = {"WindowCenter": 2 ** (bits - 1), "WindowWidth": 2**bits}
    if bits == 12:
        data = compressed(make_dicom(pixels, BitsStored=12, **window), JPEG2000Lossless)
    else:
        data = wavelet(make_dicom(pixels, **window), irreversible=irreversible)
    reduced = compare_reading(data, RECIPES[0])
    part = tuple(-(-side // 4) for side in size)
    if bits > 8:
        assert reduced.pixels.shape == part
    elif not irreversible:
        assert reduced.pixels.shape == size


def test_jpeg_2000_is_decoded_in_full_if_necessary(make_dicom: MakeDicom) -> None:
    plain = radiograph(*SIZE)
    full: dict[str, Any] = {"WindowCenter": 2048, "WindowWidth": 4096}
    half = tuple(-(-side // 4) for side in SIZE)
    cases: list[tuple[NDArray[np.uint16], dict[str, Any]]] = [
        (plain, {}),
        (plain, {"WindowCenter": 1500, "WindowWidth": 300}),
        (plain, {**full, "PixelPaddingValue": 1800, "PixelPaddingRangeLimit": 1900}),
        (radiograph(*SIZE, letters=True), full),
    ]
    for pixels, attributes in cases:
        reduced = compare_reading(
            compressed(make_dicom(pixels, BitsStored=12, **attributes), JPEG2000Lossless), RECIPES[0]
        )
        assert reduced.pixels.shape > half
    tiled = wavelet(make_dicom(plain << 4, WindowCenter=32768, WindowWidth=65536), tile_size=(256, 256))
    assert compare_reading(tiled, RECIPES[0]).pixels.shape > half
    # The attributes say 16 bits, the codestream says 12.
    data = compressed(make_dicom(plain, BitsStored=12, **full), JPEG2000Lossless)
    dataset = pydicom.dcmread(io.BytesIO(data))
    dataset.BitsStored, dataset.HighBit = 16, 15
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    assert compare_reading(stream.getvalue(), RECIPES[0]).pixels.shape > half


def test_a_cut_or_damaged_jpeg_2000_is_refused_or_equal(make_dicom: MakeDicom) -> None:
    data = compressed(
        make_dicom(radiograph(*SIZE), BitsStored=12, WindowCenter=2048, WindowWidth=4096), JPEG2000Lossless
    )
    whole, refused = read_reduced(data, RECIPES[0]), 0
    assert whole.pixels.size < np.prod(SIZE) / 8
    for length in range(len(data) // 30, len(data) - 2, len(data) // 30):
        try:
            np.testing.assert_array_equal(read_reduced(data[:length], RECIPES[0]).pixels, whole.pixels)
        except ImageError as error:
            assert "\n" not in str(error)  # noqa: PT017
            refused += 1
    assert refused >= 25


def test_small_pictures_arrays_and_pillow_images_are_read_in_full() -> None:
    pixels = (radiograph(100, 90) >> 4).astype(np.uint8)
    sources: list[Any] = [encode(Image.fromarray(pixels), "PNG", compress_level=1), pixels, Image.fromarray(pixels)]
    for source in sources:
        reduced = read_reduced(source, RECIPES[0])
        np.testing.assert_array_equal(reduced.pixels, pixels)
        np.testing.assert_array_equal(preprocess(reduced, RECIPES[0]), preprocess(pixels, RECIPES[0]))


def test_frames_are_chosen_and_refused_in_the_same_way() -> None:
    frames = [grey(radiograph(*SIZE)), grey(radiograph(*SIZE)).rotate(180)]
    data = encode(frames[0], "TIFF", save_all=True, append_images=frames[1:])
    for frame in (0, 1):
        compare_reading(data, RECIPES[0], frame=frame)
    for wrong in (None, 2):
        with pytest.raises(ImageError) as whole:
            read_image(data, frame=wrong)
        with pytest.raises(ImageError) as reduced:
            read_reduced(data, RECIPES[0], frame=wrong)
        assert str(whole.value) == str(reduced.value)


@pytest.mark.parametrize("name", [name for name in sorted(RASTERS) if "png" in name])
def test_recompressing_a_png_keeps_its_pixels(name: str) -> None:
    pytest.importorskip("isal")
    data = RASTERS[name](radiograph(211, 97)) + b"trailing"
    stored = inflated_png(data)
    assert len(stored) > len(data)
    with Image.open(io.BytesIO(data)) as before, Image.open(io.BytesIO(stored)) as after:
        np.testing.assert_array_equal(np.asarray(before), np.asarray(after))
        assert before.info == after.info


def test_a_png_with_other_features_is_not_recompressed() -> None:
    data = encode(grey(radiograph(60, 50)), "PNG", compress_level=1)
    place = data.index(b"IDAT")
    damaged = bytearray(data)
    damaged[place + 40] ^= 0x55
    frames = encode(
        grey(radiograph(60, 50)), "PNG", save_all=True, append_images=[grey(radiograph(60, 50)).rotate(180)]
    )
    longer = data[:20] + (51).to_bytes(4, "big") + data[24:]
    for odd in (bytes(damaged), data[: place + 90], frames, longer, data[:16] + b"\0" * 4 + data[20:], b"", data[:8]):
        assert inflated_png(odd) is odd


def grating(height: int, width: int, across: float, down: float) -> NDArray[np.float64]:
    """Waves between -1 and 1, with frequencies in waves per pixel."""
    rows, columns = np.mgrid[:height, :width]
    waves: NDArray[np.float64] = np.cos(2 * np.pi * (across * columns + down * rows))
    return waves


PATTERNS: dict[str, Callable[[int, int, float, float], NDArray[np.float64]]] = {
    "grating": grating,
    "bars": lambda height, width, across, down: np.sign(grating(height, width, across, down)),
    "checkerboard": lambda height, width, across, down: np.sign(
        grating(height, width, across, 0) * grating(height, width, 0, down)
    ),
    "moiré": lambda height, width, across, down: (
        (grating(height, width, across, down) + grating(height, width, across * 0.97, down + 0.01)) / 2
    ),
    "grid": lambda height, width, across, _: np.where(grating(height, width, across, 0) > 0.8, 1.0, -1.0),
    "noise": lambda height, width, across, _: np.random.default_rng(int(across * 1e6)).uniform(-1, 1, (height, width)),
    "dots": lambda height, width, across, down: np.where(
        (grating(height, width, across, 0) > 0.9) & (grating(height, width, 0, down) > 0.9), 1.0, -1.0
    ),
}
FREQUENCY = st.one_of(
    st.floats(0, 0.5), st.integers(2, 9).map(lambda pixels: 1 / pixels), st.just(0.0), st.floats(0.3, 0.5)
)


def patterned(
    make_dicom: MakeDicom, kind: str, pixels: NDArray[np.float64], window: dict[str, Any] | None = None
) -> bytes:
    """A file of a picture with values from -1 to 1."""
    grey8 = np.rint(127.5 + 127.5 * np.clip(pixels, -1, 1)).astype(np.uint8)
    if kind in {"PNG", "JPEG"}:
        return encode(Image.fromarray(grey8), kind, **({"quality": 95} if kind == "JPEG" else {"compress_level": 1}))
    levels = np.rint(2047.5 + 2047.5 * np.clip(pixels, -1, 1)).astype(np.uint16)
    if kind == "irreversible":
        return wavelet(make_dicom(levels << 4, WindowCenter=32768, WindowWidth=65536), irreversible=True)
    data = make_dicom(levels, BitsStored=12, **(window or {"WindowCenter": 2048, "WindowWidth": 4096}))
    return compressed(data, JPEG2000Lossless) if kind == "reversible" else data


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pattern=st.sampled_from(sorted(PATTERNS)),
    across=FREQUENCY,
    down=FREQUENCY,
    amplitude=st.sampled_from([1.0, 0.4, 0.1]),
    on_radiograph=st.booleans(),
    size=st.tuples(st.integers(430, 700), st.integers(430, 700)),
    start=st.tuples(st.integers(0, 40), st.integers(0, 40)),
    spec=st.sampled_from(RECIPES + OTHER_RECIPES),
)
@example(
    # A steep slope at the border of the picture.
    pattern="grating",
    across=1 / 32,
    down=0.0,
    amplitude=1.0,
    on_radiograph=False,
    size=(437, 523),
    start=(0, 0),
    spec=RECIPES[1],
)
@example(
    # Weak lines all over a picture whose slow changes seem to explain them.
    pattern="dots",
    across=0.4296875,
    down=0.0,
    amplitude=0.1,
    on_radiograph=True,
    size=(430, 430),
    start=(0, 0),
    spec=OTHER_RECIPES[0],
)
@example(
    # Two grey levels, which the full picture both rounds up.
    pattern="checkerboard",
    across=0.012,
    down=0.009,
    amplitude=0.4,
    on_radiograph=False,
    size=(500, 452),
    start=(3, 7),
    spec=RECIPES[1],
)
@example(
    # Nearly flat: every second row of the full picture is rounded up to the next grey level.
    pattern="dots",
    across=1 / 9,
    down=0.5,
    amplitude=0.1,
    on_radiograph=False,
    size=(437, 523),
    start=(0, 0),
    spec=RECIPES[0],
)
@example(
    # A weak pattern all over a picture whose slow changes seem to explain it.
    pattern="bars",
    across=0.0,
    down=0.28125,
    amplitude=0.1,
    on_radiograph=True,
    size=(437, 523),
    start=(0, 0),
    spec=RECIPES[0],
)
@pytest.mark.parametrize(
    "kind",
    [*(pytest.param(kind, marks=pytest.mark.slow) for kind in ("PNG", "JPEG")), "raw", "reversible", "irreversible"],
)
def test_fine_patterns_stay_within_the_limit(
    make_dicom: MakeDicom,
    kind: str,
    pattern: str,
    across: float,
    down: float,
    amplitude: float,
    on_radiograph: bool,
    size: tuple[int, int],
    start: tuple[int, int],
    spec: PreprocessSpec,
) -> None:
    larger = PATTERNS[pattern](size[0] + start[0], size[1] + start[1], across, down)
    pixels = amplitude * larger[start[0] :, start[1] :]
    if on_radiograph:
        pixels = pixels + radiograph(*size) / 2048 - 1
    data = patterned(make_dicom, kind, pixels)
    reduced = compare_reading(data, spec)
    if kind in {"PNG", "JPEG", "raw"}:
        np.testing.assert_array_equal(reduced.pixels, read_image(data))


@pytest.mark.parametrize(
    ("size", "kind"), every_other([(440, 523), (441, 522), (442, 521), (443, 520)], ["reversible", "irreversible"])
)
def test_slopes_at_the_border_are_decoded_at_a_lower_resolution(
    make_dicom: MakeDicom, size: tuple[int, int], kind: str
) -> None:
    rows, columns = np.mgrid[: size[0], : size[1]]
    for phase in np.linspace(0, 2 * np.pi, 6, endpoint=False):
        # Waves of 60 pixels from both sides of the border, which fade towards the middle.
        waves = [
            np.cos(2 * np.pi * distance / 60 + phase) * np.exp(-distance / 60)
            for distance in (columns, columns[:, ::-1], rows, rows[::-1])
        ]
        data = patterned(make_dicom, kind, 0.25 * sum(waves))
        for reduced in compare_reading_for_recipes(data, [*RECIPES, *OTHER_RECIPES]):
            assert reduced.pixels.shape < size


@pytest.mark.parametrize(("width", "kind"), every_other([1, 3, 6, 12], ["reversible", "irreversible"]))
def test_strips_along_the_border_stay_within_the_limit(make_dicom: MakeDicom, width: int, kind: str) -> None:
    smooth = grating(576, 658, 0.002, 0.003) * 0.4 - 0.3
    for sides in (np.s_[:width], np.s_[-width:], np.s_[:, :width], np.s_[:, -width:]):
        for level in (0.1, 1.0):
            strip = smooth.copy()
            strip[sides] = level
            data = patterned(make_dicom, kind, strip)
            compare_reading_for_recipes(data, [*RECIPES, *OTHER_RECIPES])


@pytest.mark.parametrize("kind", ["reversible", "irreversible"])
def test_a_picture_with_a_finely_patterned_patch_is_read_in_full(make_dicom: MakeDicom, kind: str) -> None:
    smooth = grating(*SIZE, 0.002, 0.003) * 0.5
    assert compare_reading(patterned(make_dicom, kind, smooth), RECIPES[0]).pixels.shape < SIZE
    smooth[200:240, 300:340] += 0.5 * grating(40, 40, 0.46, 0)
    assert compare_reading(patterned(make_dicom, kind, smooth), RECIPES[0]).pixels.shape == SIZE


@pytest.mark.parametrize("options", [{"num_resolutions": 3}, {"progression": "RPCL"}, {"progression": "CPRL"}])
@pytest.mark.parametrize("layers", [[0], [40, 10, 0]])
def test_every_progression_order_is_read(options: dict[str, Any], layers: list[int]) -> None:
    picture = Image.fromarray(radiograph(300, 260))
    data = encode(picture, "JPEG2000", no_jp2=True, quality_layers=layers, quality_mode="rates", **options)
    found = jpeg2000_coding(data)
    assert found is not None
    bands = bands_of(*found)
    assert bands is not None
    assert [band.level for band in bands[-3:]] == [1, 1, 1]
    # Half of the greatest difference between neighbours is an upper limit for the amplitude of a grating.
    for band in bands[-3:-1]:
        assert 16 <= band.greatest.max() <= 4096
    assert len(bands) == 3 * (options.get("num_resolutions", 6) - 1)
