"""Reads PNG, JPEG and TIFF files with Pillow.

The three decoders are called by their classes, not by `Image.open`. So the content of a file cannot select any other
decoder, and only the limits of this package apply: Pillow's check for "decompression bombs" is not reached.
"""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from PIL import Image, ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from lrclr import budget
from lrclr.errors import ImageError, UsageError
from lrclr.images._arrays import eight_bit, flatten_alpha, scale_levels
from lrclr.images._container import picture_parts
from lrclr.images._guard import attempt
from lrclr.images._jpeg import load_jpeg
from lrclr.images._memory import STRIP, inflated_bytes, raster_bytes
from lrclr.images._png import inflated_png
from lrclr.images._reduced import ReducedImage

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from lrclr.images._limits import ReadLimits

SIGNATURES: dict[bytes, Callable[[BytesIO], ImageFile.ImageFile]] = {
    b"\x89PNG\r\n\x1a\n": PngImageFile,
    b"\xff\xd8\xff": JpegImageFile,
    b"II*\x00": TiffImageFile,
    b"MM\x00*": TiffImageFile,
    b"II+\x00": TiffImageFile,
    b"MM\x00+": TiffImageFile,
}

_DAMAGED = "the image cannot be decoded: it is damaged, truncated, or of a kind that lrclr does not read"
_REPAIR = "Export the image again, as an 8-bit or 16-bit PNG"
_BAD_EXIF = "the EXIF data cannot be read and are ignored"
_MAX_FRAMES_COUNTED = 1000
_BITS_PER_SAMPLE, _PHOTOMETRIC, _PLANAR, _ORIENTATION, _SAMPLE_FORMAT = 258, 262, 284, 274, 339
# EXIF orientations in which the width in the file is the height of the upright picture.
_SIDEWAYS = frozenset({5, 6, 7, 8})
# For each EXIF orientation, a function from the upright picture to a view whose rows are those of the file.
_UPRIGHT: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: upright.swapaxes(0, 1)[::-1],
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),
    8: lambda upright: upright.swapaxes(0, 1)[:, ::-1],
}
# Inflating the whole file at once holds the pixels three times, so larger pictures are left to Pillow.
_MAX_INFLATED = 256 * 2**20
_WHITE_IS_ZERO, _SEPARATE_PLANES, _SIGNED = 0, 2, 2


def decode_raster(
    file: bytes, opener: Callable[[BytesIO], ImageFile.ImageFile], frame: int | None, limits: ReadLimits
) -> ReducedImage:
    """Decode one frame of a PNG, JPEG or TIFF file in full, as `[H, W]` or `[H, W, 3]`.

    Raises:
        ImageError: the file is damaged or truncated, or `frame` is missing or does not exist.
        ImageLimitError: the picture is larger than `limits`.
    """
    data, remarks = attempt(lambda: picture_parts(file), failure=_DAMAGED, fix=_REPAIR)
    image = _opened(data, opener, frame, limits)
    if opener is PngImageFile and (size := inflated_bytes(image, data)) <= _MAX_INFLATED:
        budget.decoding.reserve(size)
        image = _opened(attempt(lambda: inflated_png(data), failure=_DAMAGED, fix=_REPAIR), opener, frame, limits)
    pixels = picture_from_pillow(image, limits, data)
    unread = () if attempt(lambda: _orientation(image), failure=_DAMAGED) else (_BAD_EXIF,)
    warnings = ("narrow_range",) if _is_deep(image) and _greatest(image, pixels) < 128 else ()
    return ReducedImage.whole(pixels, remarks + unread, warnings)


def _opened(
    data: bytes, opener: Callable[[BytesIO], ImageFile.ImageFile], frame: int | None, limits: ReadLimits
) -> ImageFile.ImageFile:
    _refuse_truncated()
    image = attempt(lambda: opener(BytesIO(data)), failure=_DAMAGED, fix=_REPAIR)
    if isinstance(image, PngImageFile) and image.is_animated and frame and frame < image.n_frames:
        # Pillow decodes all frames before the requested one.
        limits.check_pixels(image.height * (frame + 1), image.width)
        budget.decoding.reserve(attempt(lambda: raster_bytes(image), failure=_DAMAGED, fix=_REPAIR))
    attempt(lambda: _select(image, frame), failure=_DAMAGED, fix=_REPAIR)
    limits.check_pixels(image.height, image.width)
    return image


def picture_from_pillow(image: Image.Image, limits: ReadLimits, data: bytes = b"") -> NDArray[np.uint8]:
    """Return the current frame of a Pillow image, loaded or not, as a new picture: `[H, W]` or `[H, W, 3]` uint8.

    Args:
        image: image that Pillow opened.
        limits: limits that are checked before decoding.
        data: content of the file that the image comes from, if any.

    Raises:
        ImageError: the image cannot be loaded, or its mode is not supported.
        ImageLimitError: the image is larger than `limits`, or takes more memory than `lrclr.budget` allows.
    """
    _refuse_truncated()
    limits.check_pixels(image.height, image.width)
    return attempt(lambda: _pixels(image, data), failure=_DAMAGED, fix=_REPAIR)


def _refuse_truncated() -> None:
    # Pillow reads this global while it decodes. If it is set, Pillow returns a part of a truncated picture, and a
    # finding may be in the missing part.
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise UsageError(
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is on",
            why="truncated files would be read as complete pictures",
            fix="Set it to False",
        )


def _select(image: ImageFile.ImageFile, frame: int | None) -> None:
    if frame is None and getattr(image, "is_animated", False):
        fix = "Choose a frame, counted from 0 (--frame, in Python frame=)."
        raise ImageError(f"the file has {_frame_count(image)} frames", fix=fix)
    if frame:
        try:
            image.seek(frame)
        except EOFError:
            count = _frame_count(image)
            raise ImageError(f"frame {frame} does not exist: the file has {count} frame(s), counted from 0") from None


def _frame_count(image: ImageFile.ImageFile) -> str:
    """Count frames by seeking, up to a limit: Pillow's `n_frames` would read all of a TIFF file of a million frames.

    A PNG file declares its number of frames, and seeking would decode them.
    """
    if isinstance(image, PngImageFile):
        return str(image.n_frames)
    count = 1
    try:
        while count < _MAX_FRAMES_COUNTED:
            image.seek(count)
            count += 1
    except EOFError:
        return str(count)
    return f"{count} or more"


def _pixels(image: Image.Image, data: bytes) -> NDArray[np.uint8]:
    budget.decoding.reserve(raster_bytes(image, data))
    _check_coverage(image)
    if isinstance(image, JpegImageFile) and data:
        load_jpeg(image, data)
    else:
        image.load()
    return _eight_bit(image)


def _orientation(image: Image.Image) -> int | None:
    """Return the orientation in the EXIF data of an image; None if they cannot be read."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - Pillow raises nearly any exception on damaged EXIF data
        return None


def _eight_bit(image: Image.Image) -> NDArray[np.uint8]:
    """Return the pixels of a loaded image, upright according to its EXIF data: `[H, W]` or `[H, W, 3]`.

    The conversion works strip by strip, since its intermediate arrays can take 28 bytes a pixel.
    """
    width, height = image.size
    rows = max(1, STRIP // width)
    pixels = as_stored = np.empty(0, np.uint8)
    for top in range(0, height, rows):
        part = _eight_bit_part(image.crop((0, top, width, min(top + rows, height))), image)
        if top == 0:
            orientation = _orientation(image) or 1
            size = (width, height) if orientation in _SIDEWAYS else (height, width)
            pixels = np.empty((*size, *part.shape[2:]), np.uint8)
            as_stored = _UPRIGHT[orientation](pixels) if orientation in _UPRIGHT else pixels
        as_stored[top : top + rows] = part
    return pixels


def _eight_bit_part(part: Image.Image, image: Image.Image) -> NDArray[np.uint8]:
    """Return the pixels of a part of `image`, in the orientation of the file."""
    mode = part.mode
    if mode == "F" or _is_deep(part):
        return _deep_grey(part, image)
    if mode in ("P", "PA") or (mode == "RGB" and part.has_transparency_data):
        part = part.convert("RGBA" if part.has_transparency_data else "RGB")
    elif mode in ("1", "L") and part.has_transparency_data:
        part = part.convert("L").convert("LA") if mode == "1" else part.convert("LA")
    elif mode in ("CMYK", "YCbCr", "RGBX"):
        part = part.convert("RGB")
    elif mode not in ("1", "L", "LA", "RGB", "RGBA"):
        raise ImageError(f"an image of Pillow's mode {mode} is not accepted", fix="Convert it to mode L or RGB")
    pixels = eight_bit(np.asarray(part))
    if part.mode in ("LA", "RGBA"):
        pixels = flatten_alpha(pixels)
    return pixels[:, :, 0] if part.mode == "LA" else pixels


def _check_coverage(image: Image.Image) -> None:
    """Refuse a TIFF file whose strips or tiles do not cover the picture. Pillow would fill the rest with black."""
    if isinstance(image, TiffImageFile) and image.tile and image.tile[0].codec_name != "libtiff":
        boxes = [tile.extents for tile in image.tile if tile.extents]
        is_planar = image.tag_v2.get(_PLANAR) == _SEPARATE_PLANES
        layers = len(image.getbands()) if is_planar else 1
        if layers > 1 and image.tag_v2.get(_BITS_PER_SAMPLE, (8,))[0] > 8:
            # Pillow reads their bytes as pixels.
            raise ImageError("uncompressed TIFF files with planes of 16 bits are not supported", fix=_REPAIR)
        covered = sum((right - left) * (lower - upper) for left, upper, right, lower in boxes)
        if covered < image.width * image.height * layers:
            raise ImageError(_DAMAGED, why="its strips do not cover the picture", fix=_REPAIR)


def _is_deep(image: Image.Image) -> bool:
    return image.mode == "I" or image.mode.startswith("I;16")


def _greatest(image: Image.Image, pixels: NDArray[np.uint8]) -> int:
    """Return the greatest value of the file, scaled to 0..255."""
    return int(255 - pixels.min() if _is_inverted(image) else pixels.max())


def _tags(image: Image.Image) -> Any:
    """Return the tags of an image from a TIFF file."""
    return getattr(image, "tag_v2", {})


def _is_inverted(image: Image.Image) -> bool:
    return bool(_tags(image).get(_PHOTOMETRIC) == _WHITE_IS_ZERO)


def _deep_grey(part: Image.Image, image: Image.Image) -> NDArray[np.uint8]:
    """Scale grey of more than 8 bits in a part of `image` to 0..255."""
    array = cast("NDArray[np.generic]", np.asarray(part))
    tags = _tags(image)
    inverted = _is_inverted(image)
    if part.mode == "F":
        pixels = eight_bit(array)
        return np.subtract(255, pixels) if inverted else pixels
    # Pillow writes 16-bit grey as signed numbers of 32 bits.
    is_signed = tags.get(_SAMPLE_FORMAT) == (_SIGNED,) and tags.get(_BITS_PER_SAMPLE) == (16,)
    if is_signed or array.min() < 0 or array.max() > 65535:
        raise ImageError(
            "the image holds signed numbers of 16 bits, or whole numbers outside 0 to 65535",
            why="the values of black and white are not defined for signed and 32-bit grey",
            fix=_REPAIR,
        )
    levels = array.astype(np.uint16, copy=False)
    bits = tags.get(_BITS_PER_SAMPLE, (16,))[0]
    white = 2**bits - 1 if 8 < bits < 16 else 65535
    if key := part.info.get("transparency"):
        levels = np.where(levels == key, np.uint16(0), levels)
    pixels = scale_levels(levels, white)
    # Pillow inverts "white is zero" for 1 and 8 bits, but not for more.
    return np.subtract(255, pixels) if inverted else pixels
