"""PNG, JPEG and TIFF through Pillow.

The three decoders are called by their classes, not through `Image.open`: no other decoder can then be reached
whatever the content says, and the limits are ours alone, without a word of Pillow's on "decompression bombs" and
without touching its globals.
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
from lrclr.images._guard import attempt
from lrclr.images._memory import STRIP, inflated_bytes, raster_bytes
from lrclr.images._png import inflated_png
from lrclr.images._reduced import ReducedImage, shrunk

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from lrclr.images._limits import ReadLimits
    from lrclr.images._reduced import Wanted

__all__ = ["SIGNATURES", "decode_raster", "picture_from_pillow", "reduce_raster"]

SIGNATURES: dict[bytes, Callable[[BytesIO], ImageFile.ImageFile]] = {
    b"\x89PNG\r\n\x1a\n": PngImageFile,
    b"\xff\xd8\xff": JpegImageFile,
    b"II*\x00": TiffImageFile,
    b"MM\x00*": TiffImageFile,
    b"II+\x00": TiffImageFile,
    b"MM\x00+": TiffImageFile,
}

_DAMAGED = "the image cannot be decoded: it is damaged, truncated, or of a kind that lrclr does not read"
_REPAIR = "Export it anew, as an 8-bit or 16-bit PNG"
_MAX_FRAMES_COUNTED = 1000
_BITS_PER_SAMPLE, _PHOTOMETRIC, _PLANAR, _ORIENTATION = 258, 262, 284, 274
_SIDEWAYS = frozenset({5, 6, 7, 8})
# For each orientation of EXIF, from the upright picture to a view of it whose rows are those in the file.
_UPRIGHT: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: upright.swapaxes(0, 1)[::-1],
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),
    8: lambda upright: upright.swapaxes(0, 1)[:, ::-1],
}
# Inflating at once is for pictures of usual size: it holds the pixels three times.
_MAX_INFLATED = 256 * 2**20
_WHITE_IS_ZERO, _SEPARATE_PLANES = 0, 2


def decode_raster(
    data: bytes, opener: Callable[[BytesIO], ImageFile.ImageFile], frame: int | None, limits: ReadLimits
) -> NDArray[np.uint8]:
    """Decode one frame of a PNG, JPEG or TIFF file as `[H, W]` or `[H, W, 3]`.

    Raises:
        ImageError: the file is damaged or truncated, or `frame` is missing or not one of its frames.
        ImageLimitError: the picture is larger than `limits`.
    """
    return picture_from_pillow(_opened(data, opener, frame, limits), limits, data)


def reduce_raster(
    data: bytes,
    opener: Callable[[BytesIO], ImageFile.ImageFile],
    frame: int | None,
    limits: ReadLimits,
    wanted: Wanted,
) -> ReducedImage:
    """As `decode_raster`, with no more pixels than are wanted.

    JPEG is decoded to a half, a quarter or an eighth of its edges, which leaves most of the work out. What else there
    is is decoded in full, and averaged.

    Raises:
        ImageError, ImageLimitError: as `decode_raster`; and the picture is too narrow for the recipe.
    """
    image = _opened(data, opener, frame, limits)
    factor = wanted.factor(image.height, image.width)
    if opener is PngImageFile and (size := inflated_bytes(image, data, factor)) <= _MAX_INFLATED:
        budget.decoding.reserve(size)
        image = _opened(attempt(lambda: inflated_png(data), failure=_DAMAGED, fix=_REPAIR), opener, frame, limits)
    return attempt(lambda: _reduced(image, data, wanted), failure=_DAMAGED, fix=_REPAIR)


def _opened(
    data: bytes, opener: Callable[[BytesIO], ImageFile.ImageFile], frame: int | None, limits: ReadLimits
) -> ImageFile.ImageFile:
    _refuse_truncated()
    image = attempt(lambda: opener(BytesIO(data)), failure=_DAMAGED, fix=_REPAIR)
    if isinstance(image, PngImageFile) and image.is_animated and frame and frame < image.n_frames:
        # Pillow decodes each frame before the wanted one.
        limits.check_pixels(image.height * (frame + 1), image.width)
        budget.decoding.reserve(attempt(lambda: raster_bytes(image), failure=_DAMAGED, fix=_REPAIR))
    attempt(lambda: _select(image, frame), failure=_DAMAGED, fix=_REPAIR)
    limits.check_pixels(image.height, image.width)
    return image


def picture_from_pillow(image: Image.Image, limits: ReadLimits, data: bytes = b"") -> NDArray[np.uint8]:
    """Return the current frame of a Pillow image, loaded or not, as a new picture: `[H, W]` or `[H, W, 3]` uint8.

    Args:
        image: as Pillow opened it.
        limits: what is refused before decoding.
        data: the file that it comes from, if it does.

    Raises:
        ImageError: it cannot be loaded, or its mode has no agreed meaning as a picture.
        ImageLimitError: it is larger than `limits`, or takes more memory than `lrclr.budget` allows.
    """
    _refuse_truncated()
    limits.check_pixels(image.height, image.width)
    return attempt(lambda: _pixels(image, raster_bytes(image, data)), failure=_DAMAGED, fix=_REPAIR)


def _refuse_truncated() -> None:
    # Pillow reads this global while it decodes: it would hand out half a picture, and a finding may lie in the other
    # half.
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise UsageError(
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is on",
            why="truncated files would pass as whole pictures",
            fix="Set it to False",
        )


def _select(image: ImageFile.ImageFile, frame: int | None) -> None:
    if frame is None and getattr(image, "is_animated", False):
        raise ImageError(f"the file has {_frame_count(image)} frames", fix="Choose one, counted from 0, with frame=")
    if frame:
        try:
            image.seek(frame)
        except EOFError:
            raise ImageError(f"there is no frame {frame}: the file has {_frame_count(image)}, counted from 0") from None


def _frame_count(image: ImageFile.ImageFile) -> str:
    """Count by trial, since Pillow's `n_frames` would walk through a TIFF file of a million frames.

    A PNG file says how many it has, and a trial would decode them.
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


def _pixels(image: Image.Image, size: int) -> NDArray[np.uint8]:
    budget.decoding.reserve(size)
    _load(image)
    return _eight_bit(image)


def _reduced(image: ImageFile.ImageFile, data: bytes, wanted: Wanted) -> ReducedImage:
    full = image.size
    scale = _draft(image, wanted) if isinstance(image, JpegImageFile) else 1
    factor = None if scale > 1 else wanted.factor(image.height, image.width)
    budget.decoding.reserve(raster_bytes(image, data, full=full, factor=factor))
    _load(image)
    if scale > 1:
        width, height = full[::-1] if image.getexif().get(_ORIENTATION) in _SIDEWAYS else full
        # Its last row and column may stand for less than the others.
        return ReducedImage(_eight_bit(image), height, width, (0.0, 0.0, width / scale, height / scale))
    upright: Image.Image = image
    if image.mode not in ("L", "RGB") or image.has_transparency_data or _orientation(image) != 1:
        pixels = _eight_bit(image)
        # Its pixels are needed no more.
        image.close()
        upright = Image.fromarray(pixels)
    width, height = upright.size
    return shrunk(upright, wanted.factor(height, width), height, width)


def _draft(image: JpegImageFile, wanted: Wanted) -> int:
    """Have a JPEG decoded at a part of its size, and return which: 1, 2, 4 or 8 pixels become one along an edge."""
    width, height = image.size
    turned = image.getexif().get(_ORIENTATION, 1) != 1
    scale = next(part for part in (8, 4, 2, 1) if part <= wanted.factor(height, width))
    while scale > 1 and turned and (width % scale or height % scale):
        # What stands for less than the others would be at another end once the picture is turned.
        scale //= 2
    if scale > 1 and image.draft(image.mode, (width // scale, height // scale)) is None:
        return 1
    return scale


def _load(image: Image.Image) -> None:
    _check_coverage(image)
    image.load()


def _orientation(image: Image.Image) -> int:
    return int(image.getexif().get(_ORIENTATION, 1))


def _eight_bit(image: Image.Image) -> NDArray[np.uint8]:
    """Return the pixels of a loaded image, turned as its EXIF says: `[H, W]` or `[H, W, 3]`.

    Strip by strip: what lies between Pillow's pixels and 8 bits can take 28 bytes a pixel.
    """
    width, height = image.size
    rows = max(1, STRIP // width)
    pixels = as_stored = np.empty(0, np.uint8)
    for top in range(0, height, rows):
        part = _eight_bit_part(image.crop((0, top, width, min(top + rows, height))), image)
        if top == 0:
            orientation = _orientation(image)
            size = (width, height) if orientation in _SIDEWAYS else (height, width)
            pixels = np.empty((*size, *part.shape[2:]), np.uint8)
            as_stored = _UPRIGHT[orientation](pixels) if orientation in _UPRIGHT else pixels
        as_stored[top : top + rows] = part
    return pixels


def _eight_bit_part(part: Image.Image, image: Image.Image) -> NDArray[np.uint8]:
    """Return the pixels of a part of `image`, not turned."""
    mode = part.mode
    if mode in {"I", "F"} or mode.startswith("I;16"):
        return _deep_grey(part, getattr(image, "tag_v2", {}))
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
    """Refuse a TIFF file whose strips or tiles leave a part of the picture out: Pillow would leave it black."""
    if isinstance(image, TiffImageFile) and image.tile:
        boxes = [tile.extents for tile in image.tile if tile.extents]
        layers = len(image.getbands()) if image.tag_v2.get(_PLANAR) == _SEPARATE_PLANES else 1
        libtiff_fills = image.tile[0].codec_name == "libtiff"
        covered = sum((right - left) * (lower - upper) for left, upper, right, lower in boxes)
        if not libtiff_fills and covered < image.width * image.height * layers:
            raise ImageError(_DAMAGED, why="its strips do not cover the picture", fix=_REPAIR)


def _deep_grey(image: Image.Image, tags: Any) -> NDArray[np.uint8]:
    """Scale grey of more than 8 bits. `tags` are those of the TIFF file that it came from, if it did."""
    array = cast("NDArray[np.generic]", np.asarray(image))
    inverted = tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    if image.mode == "F":
        pixels = eight_bit(array)
        return np.subtract(255, pixels) if inverted else pixels
    if array.min() < 0 or array.max() > 65535:
        raise ImageError(
            "the image holds whole numbers outside 0 to 65535",
            why="signed and 32-bit grey have no agreed black and white",
            fix=_REPAIR,
        )
    levels = array.astype(np.uint16, copy=False)
    bits = tags.get(_BITS_PER_SAMPLE, (16,))[0]
    white = 2**bits - 1 if 8 < bits < 16 else 65535
    if key := image.info.get("transparency"):
        levels = np.where(levels == key, np.uint16(0), levels)
    pixels = scale_levels(levels, white)
    # Pillow turns "white is zero" round for 1 and 8 bits, but not for more.
    return np.subtract(255, pixels) if inverted else pixels
