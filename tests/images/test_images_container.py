"""PNG, JPEG and TIFF files whose optional parts are damaged or huge are read without these parts."""

from __future__ import annotations

import struct
import zlib
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from lrclr.errors import ImageError
from lrclr.images import read_image

# Private: the reader of PNG chunks is tested on chunks that Pillow refuses.
from lrclr.images._container import png_chunks
from tests.images.conftest import read_whole
from tests.raster_files import encode, png_chunk

if TYPE_CHECKING:
    from numpy.typing import NDArray

BAD_CHUNK = "an optional chunk of the PNG file is damaged and is ignored"
PICTURE: NDArray[np.uint8] = np.add.outer(np.arange(20) * 7, np.arange(30) * 3).astype(np.uint8)
ROTATED = b"II*\0\x08\0\0\0" + struct.pack("<HHHIHHI", 1, 0x112, 3, 1, 6, 0, 0)


@cache
def png(mode: str = "L") -> bytes:
    return encode(Image.fromarray(PICTURE).convert(mode), "PNG")


def with_chunk(data: bytes, part: bytes, before: bytes = b"IDAT") -> bytes:
    place = next(begin for name, begin, _ in png_chunks(data) if name == before) - 8
    return data[:place] + part + data[place:]


HUGE = zlib.compress(bytes(2**21), 9)
PARTS = {
    "compressed text": png_chunk(b"zTXt", b"Comment\0\0" + HUGE),
    "international text": png_chunk(b"iTXt", b"Comment\0\1\0\0\0" + HUGE),
    "plain text": png_chunk(b"tEXt", b"Comment\0" + bytes(2**20)),
    "EXIF as huge text": png_chunk(b"zTXt", b"Raw profile type exif\0\0" + HUGE),
    "XMP as huge text": png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + HUGE),
    "XMP that does not inflate": png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0not zlib"),
    "text that does not inflate": png_chunk(b"zTXt", b"Comment\0\0not zlib"),
    "text of another method": png_chunk(b"zTXt", b"Comment\0\7" + HUGE),
    "text without a keyword": png_chunk(b"tEXt", b""),
    "profile": png_chunk(b"iCCP", b"name\0\0" + HUGE),
    "profile that does not inflate": png_chunk(b"iCCP", b"name\0\0not zlib"),
    "short profile": png_chunk(b"iCCP", b"n"),
    "short gamma": png_chunk(b"gAMA", b"\0"),
    "short chromaticities": png_chunk(b"cHRM", b"\0\0\0"),
    "short resolution": png_chunk(b"pHYs", b"\0"),
    "short intent": png_chunk(b"sRGB", b""),
    "unknown": png_chunk(b"abCd", b"anything"),
}
DAMAGED = {
    "text": png_chunk(b"tEXt", b"Comment\0words", check=7),
    "profile": png_chunk(b"iCCP", b"name\0\0" + zlib.compress(b"profile"), check=7),
    "EXIF": png_chunk(b"eXIf", ROTATED, check=7),
    "resolution": png_chunk(b"pHYs", bytes(9), check=7),
    "transparency": png_chunk(b"tRNS", b"\0\7", check=7),
    "short transparency": png_chunk(b"tRNS", b"\0"),
    "long transparency": png_chunk(b"tRNS", bytes(9)),
}


@pytest.mark.parametrize("before", ["IDAT", "IEND"])
@pytest.mark.parametrize("name", PARTS)
def test_optional_chunks_do_not_change_a_picture(name: str, before: str) -> None:
    for mode in ("L", "RGB", "P"):
        read = read_whole(with_chunk(png(mode), PARTS[name], before.encode()))
        np.testing.assert_array_equal(read.pixels, read_image(png(mode)))
        assert read.remarks == ()


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_optional_chunk_is_ignored_with_a_remark(name: str) -> None:
    read = read_whole(with_chunk(png(), DAMAGED[name]))
    np.testing.assert_array_equal(read.pixels, PICTURE)
    assert read.remarks == (BAD_CHUNK,)


@settings(max_examples=100)
@given(
    name=st.text("abcdefghijklmnopqrstuvwxyz", min_size=4, max_size=4).map(
        lambda text: text[:2] + text[2].upper() + text[3]
    ),
    content=st.binary(max_size=60),
    check=st.sampled_from([None, 7]),
    before=st.sampled_from([b"IDAT", b"IEND"]),
)
def test_random_optional_chunks_do_not_change_a_picture(
    name: str, content: bytes, check: int | None, before: bytes
) -> None:
    read = read_whole(with_chunk(png(), png_chunk(name.encode(), content, check), before))
    np.testing.assert_array_equal(read.pixels, PICTURE)


@pytest.mark.parametrize("name", [b"IHDR", b"PLTE", b"IDAT"])
def test_a_damaged_required_chunk_is_refused(name: bytes) -> None:
    data = bytearray(png("P"))
    begin, end = next((begin, end) for found, begin, end in png_chunks(bytes(data)) if found == name)
    data[(begin + end) // 2] ^= 0x10
    with pytest.raises(ImageError):
        read_image(bytes(data))


def test_transparency_and_orientation_are_kept() -> None:
    clear = with_chunk(png(), png_chunk(b"tRNS", struct.pack(">H", int(PICTURE[3, 4]))))
    np.testing.assert_array_equal(read_image(clear), np.where(PICTURE[3, 4] == PICTURE, 0, PICTURE))
    for part in (
        png_chunk(b"eXIf", ROTATED),
        png_chunk(
            b"zTXt",
            b"Raw profile type exif\0\0"
            + zlib.compress(b"\nexif\n%8d\n" % 32 + (b"Exif\0\0" + ROTATED).hex().encode()),
        ),
        png_chunk(b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="6"/>'),
    ):
        np.testing.assert_array_equal(read_image(with_chunk(png(), part)), np.rot90(PICTURE, -1))


@pytest.mark.parametrize(
    "content", [b"", b"garbage", b"II*\0\xff\xff\xff\xff", ROTATED[:-9], b"MM\0*\0\0\0\x08\xff\xff"]
)
def test_invalid_exif_is_ignored(content: bytes) -> None:
    read = read_whole(with_chunk(png(), png_chunk(b"eXIf", content)))
    np.testing.assert_array_equal(read.pixels, PICTURE)
    assert set(read.remarks) <= {"the EXIF data cannot be read and are ignored"}


HEADS = [
    *(b"JFIF\0", b"Exif\0\0", b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b"ICC_PROFILE\0", b"ICC_PROFILE\0\x01\x02", b"MPF\0"),
    *(b"http://ns.adobe.com/xap/1.0/\0", b"Photoshop 3.0\x008BIM\x03\xed\0\0\0\0\0\x10", b"Adobe\0d", b"Ducky", b""),
]


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(
    marker=st.sampled_from([*range(0xE0, 0xF0), 0xFE]),
    head=st.sampled_from(HEADS),
    rest=st.one_of(st.binary(max_size=40), st.just(bytes(60000))),
    colour=st.booleans(),
)
def test_application_segments_do_not_change_a_jpeg(marker: int, head: bytes, rest: bytes, colour: bool) -> None:
    data = jpeg(colour)
    segment = struct.pack(">BBH", 0xFF, marker, len(head + rest) + 2) + head + rest
    np.testing.assert_array_equal(read_image(data[:2] + segment + data[2:]), read_image(data))


@cache
def jpeg(colour: bool) -> bytes:
    return encode(Image.fromarray(PICTURE).convert("RGB" if colour else "L"), "JPEG", quality=95)


@cache
def tiff(compression: str | None) -> bytes:
    return encode(Image.fromarray(PICTURE), "TIFF", compression=compression, dpi=(300, 300), description="words")


def with_tag(data: bytes, entry: bytes) -> bytes:
    """Add an entry to the first directory, which is moved to the end."""
    (place,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, place)
    entries = {data[at : at + 2]: data[at : at + 12] for at in range(place + 2, place + 2 + 12 * count, 12)}
    entries[entry[:2]] = entry
    body = b"".join(entries[tag] for tag in sorted(entries, key=lambda tag: int.from_bytes(tag, "little")))
    end = len(data) + len(data) % 2
    return (
        data[:4]
        + struct.pack("<I", end)
        + data[8:].ljust(end - 8, b"\0")
        + struct.pack("<H", len(entries))
        + body
        + bytes(4)
    )


TAGS = [269, 270, 271, 274, 280, 281, 282, 283, 296, 305, 306, 700, 33432, 34377, 34665, 34675, 34853, 40961, 65000]


@settings(max_examples=200)
@given(
    tag=st.sampled_from(TAGS),
    kind=st.sampled_from([0, 1, 2, 3, 4, 5, 7, 12, 13, 99]),
    count=st.sampled_from([0, 1, 3, 5, 10**6, 2**31]),
    value=st.sampled_from([bytes(4), b"\xff" * 4, b"\x08\0\0\0", b"abc\0"]),
    compression=st.sampled_from([None, "tiff_lzw", "tiff_deflate"]),
)
def test_optional_tags_do_not_change_a_tiff(
    tag: int, kind: int, count: int, value: bytes, compression: str | None
) -> None:
    turned = tag == 274 and (kind, count, value) == (3, 1, b"\x08\0\0\0")
    read = read_whole(with_tag(tiff(compression), struct.pack("<HHI", tag, kind, count) + value))
    np.testing.assert_array_equal(read.pixels, np.rot90(PICTURE) if turned else PICTURE)
    assert len(read.remarks) == (tag == 274 and not turned)


def test_libtiff_prints_nothing_about_optional_tags(capfd: pytest.CaptureFixture[str]) -> None:
    for tag in TAGS:
        read_image(with_tag(tiff("tiff_lzw"), struct.pack("<HHI", tag, 2, 10**6) + b"\xff" * 4))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("tag", [256, 257, 273])
def test_a_damaged_required_tag_is_refused(tag: int) -> None:
    with pytest.raises(ImageError):
        read_image(with_tag(tiff(None), struct.pack("<HHI", tag, 2, 10**6) + b"\xff" * 4))


@pytest.mark.parametrize("big", [False, True])
def test_frames_of_a_tiff_keep_their_own_tags(big: bool) -> None:
    first, second = Image.fromarray(PICTURE), Image.fromarray(PICTURE.astype(np.uint16) * 257)
    data = encode(first, "TIFF", save_all=True, append_images=[second], big_tiff=big, dpi=(9, 9))
    for frame in (0, 1):
        np.testing.assert_array_equal(read_image(data, frame=frame), PICTURE)
