"""PNG, JPEG and TIFF: depths, colours, orientation, frames."""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageFile

from lrclr.errors import ImageError, UsageError
from lrclr.images import read_image
from tests.raster_files import encode, png_chunk

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, max_side=12)
LOSSLESS_TIFF = ["raw", "tiff_deflate", "tiff_lzw", "packbits"]


def smooth(channels: int = 1) -> NDArray[np.uint8]:
    rows, columns = np.mgrid[:40, :56]
    planes = [128 + 90 * np.sin(rows / (9 + k)) * np.cos(columns / (13 - k)) for k in range(channels)]
    return np.stack(planes, axis=-1).round().astype(np.uint8)


def tiff_file(pixels: bytes, tags: dict[int, list[int]]) -> bytes:
    """Write a little-endian TIFF file whose pixels start at byte 8. All values are longs."""
    body = pixels + bytes(len(pixels) % 2)
    entries = b""
    for tag, values in sorted(tags.items()):
        packed = struct.pack(f"<{len(values)}I", *values)
        if len(values) > 1:
            packed, body = struct.pack("<I", 8 + len(body)), body + packed
        entries += struct.pack("<HHI", tag, 4, len(values)) + packed
    return b"II*\x00" + struct.pack("<I", 8 + len(body)) + body + struct.pack("<H", len(tags)) + entries + bytes(4)


def tiff(
    pixels: bytes, width: int, height: int, *, bits: int, photometric: int = 1, kind: int = 1, strips: int = 1
) -> bytes:
    """Write an uncompressed grey TIFF file; `kind` is its sample format: 1 unsigned, 2 signed, 3 float.

    Only the first of `strips` is in the file.
    """
    size = {256: [width], 257: [height], 258: [bits], 259: [1], 262: [photometric], 277: [1], 339: [kind]}
    return tiff_file(pixels, {**size, 273: [8], 278: [-(-height // strips)], 279: [len(pixels)]})


@given(hnp.arrays(np.uint16, SHAPES))
def test_a_16_bit_png_is_scaled_over_its_full_range(array: NDArray[np.uint16]) -> None:
    np.testing.assert_array_equal(read_image(encode(Image.fromarray(array), "PNG")), np.rint(array / 257))


@given(hnp.arrays(np.uint8, SHAPES))
def test_an_8_bit_png_keeps_its_values(array: NDArray[np.uint8]) -> None:
    np.testing.assert_array_equal(read_image(encode(Image.fromarray(array), "PNG")), array)


@pytest.mark.parametrize("compression", LOSSLESS_TIFF)
@pytest.mark.parametrize("mode", ["1", "L", "RGB", "P", "I;16", "CMYK"])
def test_tiff_of_every_depth_and_compression(mode: str, compression: str) -> None:
    picture = smooth(3)
    if mode == "I;16":
        levels = picture[:, :, 0].astype(np.uint16) * 200 + 77
        image, expected = Image.fromarray(levels), np.rint(levels / 257)
    else:
        image = Image.fromarray(picture).convert(mode)
        expected = np.asarray(image.convert("RGB" if mode in ("P", "CMYK") else mode))
        expected = expected * 255 if mode == "1" else expected
    np.testing.assert_array_equal(read_image(encode(image, "TIFF", compression=compression)), expected)


@pytest.mark.parametrize("compression", LOSSLESS_TIFF)
def test_compressed_white_is_zero_is_inverted(compression: str) -> None:
    grey = smooth()[:, :, 0]
    data = encode(Image.fromarray(grey), "TIFF", compression=compression, tiffinfo={262: 0})
    with Image.open(io.BytesIO(data)) as image:
        assert image.tag_v2[262] == 0  # type: ignore[attr-defined]
    np.testing.assert_array_equal(read_image(data), grey)
    levels = grey.astype(np.uint16) * 257
    data = encode(Image.fromarray(levels), "TIFF", compression=compression, tiffinfo={262: 0})
    np.testing.assert_array_equal(read_image(data), 255 - grey)


def test_white_is_zero_is_inverted_at_every_depth() -> None:
    levels = np.array([[0, 1000, 65535]], dtype="<u2")
    np.testing.assert_array_equal(read_image(tiff(levels.tobytes(), 3, 1, bits=16, photometric=1)), [[0, 4, 255]])
    np.testing.assert_array_equal(read_image(tiff(levels.tobytes(), 3, 1, bits=16, photometric=0)), [[255, 251, 0]])
    np.testing.assert_array_equal(read_image(tiff(b"\x00\x10\xff", 3, 1, bits=8, photometric=0)), [[255, 239, 0]])
    np.testing.assert_array_equal(read_image(tiff(b"\xa0", 3, 1, bits=1, photometric=0)), [[0, 255, 0]])


def test_a_12_bit_tiff_is_scaled_over_12_bits() -> None:
    # Two samples in three bytes: 0, 4095, 2048, 16.
    packed = bytes([0x00, 0x0F, 0xFF, 0x80, 0x00, 0x10])
    np.testing.assert_array_equal(read_image(tiff(packed, 4, 1, bits=12)), [[0, 255, 128, 1]])


def test_a_float_tiff_from_0_to_1_is_read() -> None:
    values = np.array([[0, 0.25, 1]], dtype="<f4")
    np.testing.assert_array_equal(read_image(tiff(values.tobytes(), 3, 1, bits=32, kind=3)), [[0, 64, 255]])
    np.testing.assert_array_equal(
        read_image(tiff(values.tobytes(), 3, 1, bits=32, kind=3, photometric=0)), [[255, 191, 0]]
    )


@pytest.mark.parametrize(
    ("values", "kind", "words"),
    [
        (np.array([[0, 300.0]], dtype="<f4"), 3, "outside 0 to 1"),
        (np.array([[0, np.nan]], dtype="<f4"), 3, "not a number"),
        (np.array([[-3, 5]], dtype="<i2"), 2, "signed and 32-bit"),
        (np.array([[0, 5]], dtype="<i2"), 2, "signed and 32-bit"),
        (np.array([[0, 2**20]], dtype="<u4"), 1, "signed and 32-bit"),
    ],
)
def test_tiff_values_without_a_known_range_are_refused(values: NDArray[Any], kind: int, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        read_image(tiff(values.tobytes(), 2, 1, bits=8 * values.itemsize, kind=kind))


def test_big_endian_tiff_and_bigtiff_are_read() -> None:
    levels = np.array([[0, 257, 65535]], dtype=">u2")
    image = Image.frombytes("I;16B", (3, 1), levels.tobytes())
    data = encode(image, "TIFF")
    assert data.startswith(b"MM")
    np.testing.assert_array_equal(read_image(data), [[0, 1, 255]])
    big = encode(Image.fromarray(smooth()[:, :, 0]), "TIFF", big_tiff=True)
    assert big.startswith(b"II+")
    np.testing.assert_array_equal(read_image(big), smooth()[:, :, 0])


def test_a_tiff_with_missing_strips_is_refused() -> None:
    pixels = smooth()[:, :, 0].tobytes()
    np.testing.assert_array_equal(read_image(tiff(pixels, 56, 40, bits=8)), smooth()[:, :, 0])
    with pytest.raises(ImageError, match="do not cover"):
        read_image(tiff(pixels, 56, 40, bits=8, strips=2))


def test_a_tiff_with_missing_planes_is_refused() -> None:
    planes = smooth(3).transpose(2, 0, 1)
    tags = {256: [56], 257: [40], 258: [8, 8, 8], 259: [1], 262: [2], 277: [3], 278: [40], 284: [2]}
    offsets = [8, 8 + 2240, 8 + 4480]
    whole = tiff_file(planes.tobytes(), {**tags, 273: offsets, 279: [2240] * 3})
    np.testing.assert_array_equal(read_image(whole), smooth(3))
    with pytest.raises(ImageError, match="do not cover"):
        read_image(tiff_file(planes.tobytes(), {**tags, 273: offsets[:2], 279: [2240] * 2}))


def test_planes_of_16_bits_are_refused() -> None:
    """Pillow reads their bytes as pixels."""
    planes = smooth(3).transpose(2, 0, 1).astype("<u2") * 257
    tags = {256: [56], 257: [40], 258: [16, 16, 16], 259: [1], 262: [2], 277: [3], 278: [40], 284: [2]}
    with pytest.raises(ImageError, match="planes of 16 bits"):
        read_image(tiff_file(planes.tobytes(), {**tags, 273: [8, 8 + 4480, 8 + 8960], 279: [4480] * 3}))


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_is_read_within_its_loss(mode: str, progressive: bool) -> None:
    image = Image.fromarray(smooth(3)).convert(mode)
    picture = read_image(encode(image, "JPEG", quality=95, subsampling=0, progressive=progressive))
    expected = np.asarray(image.convert("L" if mode == "L" else "RGB")).astype(int)
    assert picture.shape == expected.shape
    assert abs(picture - expected).mean() < 2


@pytest.mark.parametrize(("file_format", "compression"), [("PNG", None), ("TIFF", None), ("TIFF", "tiff_deflate")])
@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparent_pixels_are_blended_with_black(mode: str, file_format: str, compression: str | None) -> None:
    picture, alpha = smooth(3), smooth(4)[:, :, 3]
    image = Image.fromarray(picture).convert(mode)
    image.putalpha(Image.fromarray(alpha))
    expected = np.rint(np.asarray(image)[:, :, :-1].astype(int) * alpha[:, :, None] / 255)
    options = {"compression": compression} if compression else {}
    result = read_image(encode(image, file_format, **options))
    np.testing.assert_array_equal(result, expected[:, :, 0] if mode == "LA" else expected)


def test_transparent_colours_of_png_become_black() -> None:
    grey = np.array([[10, 77, 200]], dtype=np.uint8)
    np.testing.assert_array_equal(read_image(encode(Image.fromarray(grey), "PNG", transparency=77)), [[10, 0, 200]])
    rgb = np.stack([grey] * 3, axis=-1)
    picture = read_image(encode(Image.fromarray(rgb), "PNG", transparency=(77, 77, 77)))
    np.testing.assert_array_equal(picture[:, :, 0], [[10, 0, 200]])
    palette = Image.fromarray(rgb).quantize(3)
    index = palette.getpixel((1, 0))
    picture = read_image(encode(palette, "PNG", transparency=index))
    np.testing.assert_array_equal(picture[0, 1], [0, 0, 0])
    np.testing.assert_array_equal(picture[0, 2], [200, 200, 200])
    levels = np.array([[10, 7700, 20000]], dtype=np.uint16)
    picture = read_image(encode(Image.fromarray(levels), "PNG", transparency=7700))
    np.testing.assert_array_equal(picture, [[0, 0, 78]])
    black_and_white = Image.fromarray(np.array([[True, False]]))
    np.testing.assert_array_equal(read_image(encode(black_and_white, "PNG")), [[255, 0]])


def test_a_png_of_16_bit_colour_keeps_the_high_byte() -> None:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0))
    data = png_chunk(b"IDAT", zlib.compress(b"\x00" + struct.pack(">3H", 0, 0x1234, 0xFFFF)))
    picture = read_image(b"\x89PNG\r\n\x1a\n" + header + data + png_chunk(b"IEND", b""))
    np.testing.assert_array_equal(picture, [[[0, 0x12, 255]]])


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_applied(orientation: int, file_format: str) -> None:
    base = np.zeros((16, 32), dtype=np.uint8)
    base[:8, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = read_image(encode(Image.fromarray(base), file_format, exif=exif))
    upright = {
        1: base,
        2: base[:, ::-1],
        3: base[::-1, ::-1],
        4: base[::-1],
        5: base.T,
        6: np.rot90(base, -1),
        7: base[::-1, ::-1].T,
        8: np.rot90(base),
    }[orientation]
    assert picture.shape == upright.shape
    assert abs(picture.astype(int) - upright).mean() < 3


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_16_bit_grey_is_oriented_too(file_format: str) -> None:
    levels = np.arange(6, dtype=np.uint16).reshape(2, 3) * 10000
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = read_image(encode(Image.fromarray(levels), file_format, exif=exif))
    np.testing.assert_array_equal(picture, np.rint(np.rot90(levels, -1) / 257))


def pages(count: int, file_format: str = "TIFF") -> bytes:
    images = [Image.fromarray(np.full((3, 4), 10 * page % 256, dtype=np.uint8)) for page in range(count)]
    return encode(images[0], file_format, save_all=True, append_images=images[1:])


@pytest.mark.parametrize("file_format", ["TIFF", "PNG"])
def test_a_file_of_several_frames_needs_a_frame_number(file_format: str) -> None:
    data = pages(3, file_format)
    with pytest.raises(ImageError, match=r"the file has 3 frames\. Choose a frame.*frame="):
        read_image(data)
    for frame in range(3):
        assert read_image(data, frame=frame).max() == 10 * frame
    with pytest.raises(ImageError, match="frame 3 does not exist: the file has 3"):
        read_image(data, frame=3)


@pytest.mark.parametrize("file_format", ["TIFF", "PNG", "JPEG"])
def test_a_file_of_one_frame_has_only_frame_0(file_format: str) -> None:
    data = encode(Image.fromarray(smooth()[:, :, 0]), file_format)
    np.testing.assert_array_equal(read_image(data, frame=0), read_image(data))
    with pytest.raises(ImageError, match="frame 1 does not exist: the file has 1"):
        read_image(data, frame=1)


def test_counting_frames_has_a_limit() -> None:
    with pytest.raises(ImageError, match="1000 or more frames"):
        read_image(pages(1010))
    assert read_image(pages(1010), frame=1005).shape == (3, 4)


def test_files_in_unsupported_modes_are_refused() -> None:
    lab = Image.frombytes("LAB", (2, 1), bytes(6))
    with pytest.raises(ImageError, match="mode LAB"):
        read_image(encode(lab, "TIFF"))


def test_truncated_images_are_refused_despite_pillows_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(Image.fromarray(smooth()[:, :, 0]), "PNG")
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(UsageError, match="LOAD_TRUNCATED_IMAGES"):
        read_image(data)
