"""Every picture is read by `read_image` or `read_reduced`."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, BinaryIO, cast

import numpy as np
from PIL import Image

from lrclr import budget
from lrclr.errors import ImageError, UsageError
from lrclr.images._arrays import picture_from_array
from lrclr.images._dicom import decode_dicom, looks_like_dicom
from lrclr.images._limits import ReadLimits
from lrclr.images._raster import SIGNATURES, decode_raster, picture_from_pillow
from lrclr.images._reduced import ReducedImage, Wanted
from lrclr.images._source import read_bytes

if TYPE_CHECKING:
    import os
    from collections.abc import Callable
    from io import BytesIO

    from numpy.typing import NDArray
    from PIL import ImageFile

    from lrclr.images._resize import ResizeSpec

_DEFAULT_LIMITS = ReadLimits()


def read_image(
    source: str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | NDArray[np.generic] | Image.Image,
    *,
    frame: int | None = None,
    limits: ReadLimits = _DEFAULT_LIMITS,
) -> NDArray[np.uint8]:
    """Read one radiograph as an 8-bit picture in which bright means bright.

    The format is found from the content, never from the name: PNG, JPEG, TIFF or DICOM (with or without its preamble).

    - 16-bit grey is scaled over its full range, with rounding: 65535 becomes 255. 16-bit colour keeps its high byte.
    - Transparent pixels are blended with black. The EXIF orientation is applied. TIFF "white is zero" is inverted.
    - DICOM pixels are converted for display: modality LUT or rescale, then the first VOI LUT, else the first window,
      else the range of the frame's values without padding; MONOCHROME1 is inverted; padding is black.
      Attributes in functional groups are not used. An optional attribute that is not valid is ignored.
    - Arrays are `[H, W]`, `[H, W, 1]`, `[H, W, 3]` (RGB) or `[H, W, 4]` (RGBA) of bool, uint8, uint16 (full range) or
      floats in [0, 1]. A Pillow image counts as its current frame.

    Args:
        source: a path, encoded bytes, a binary file object, an array or a Pillow image. The source is not changed and
            not closed, but a Pillow image is loaded.
        frame: number of the frame, from 0. It is required for a file with several frames.
        limits: limits that are checked before decoding.

    Returns:
        `[H, W]` grey or `[H, W, 3]` RGB: a new, writable, C-contiguous uint8 array.

    Raises:
        ImageError: the source cannot be read, is damaged or truncated, has another format, or `frame` is missing or
            does not exist.
        ImageLimitError: the source or the picture is larger than `limits`, or takes more memory than `lrclr.budget`
            allows for the process.
        MissingExtraError: the source is DICOM, and pydicom or the decoder of its transfer syntax is not installed.
        UsageError: `source` or `frame` has the wrong type.
    """
    return cast("NDArray[np.uint8]", read_whole(source, frame=frame, limits=limits).pixels)


def read_whole(
    source: str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | NDArray[np.generic] | Image.Image,
    *,
    frame: int | None = None,
    limits: ReadLimits = _DEFAULT_LIMITS,
    wanted: Wanted | None = None,
) -> ReducedImage:
    """Read one radiograph as `read_image` does, or as `read_reduced` does if `wanted` is given; with remarks."""
    index = checked_frame(frame)
    with budget.reading():
        if isinstance(source, np.ndarray):
            _only_frame(index)
            return ReducedImage.whole(picture_from_array(source, limits))
        if isinstance(source, Image.Image):
            _only_frame(index)
            return ReducedImage.whole(picture_from_pillow(source, limits))
        data = read_bytes(source, limits)
        opener = _opener_of(data)
        if opener is None:
            return decode_dicom(data, index, limits, wanted)
        return decode_raster(data, opener, index, limits)


def read_reduced(
    source: str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | NDArray[np.generic] | Image.Image,
    spec: ResizeSpec,
    *,
    frame: int | None = None,
    limits: ReadLimits = _DEFAULT_LIMITS,
) -> ReducedImage:
    """Read one radiograph for a model, with no more pixels than preprocessing needs.

    JPEG 2000 in DICOM is decoded without the finest levels of its wavelet if two conditions hold: the file has a window
    or a VOI LUT that is linear over the values of neighbouring pixels, and the omitted levels contain no strong detail.
    This is several times faster. After `preprocess`, the result differs from that of `read_image` by at most half a
    grey level of 255 on average, and by at most 4 in any pixel. Everything else is read as by `read_image`: for fine
    patterns of strong contrast, no filter cheaper than the resize itself meets these bounds.

    Args:
        source, frame, limits: as for `read_image`.
        spec: preprocessing of the model.

    Returns:
        The picture and its full size. Its pixels may be read-only.

    Raises:
        ImageError, ImageLimitError, MissingExtraError, UsageError: as `read_image` and `preprocess`.
    """
    return read_whole(source, frame=frame, limits=limits, wanted=Wanted(spec))


def _opener_of(data: bytes) -> Callable[[BytesIO], ImageFile.ImageFile] | None:
    """Return the Pillow class that opens a file; None for DICOM."""
    # DICOM first: the standard allows the header of another format in its preamble.
    if looks_like_dicom(data):
        return None
    for signature, opener in SIGNATURES.items():
        if data.startswith(signature):
            return opener
    raise ImageError(
        "lrclr cannot read the file as an image",
        why="it is neither PNG, JPEG, TIFF nor DICOM",
        fix="Convert it to one of these formats",
    )


def checked_frame(frame: int | None) -> int | None:
    """The number of a frame. Raise UsageError if it is not an integer from 0."""
    if frame is None:
        return None
    try:
        number = -1 if isinstance(frame, bool) else operator.index(frame)
    except TypeError:
        number = -1
    if number < 0:
        raise UsageError(f"frame is {frame!r}", why="a frame is an integer from 0")
    return number


def _only_frame(frame: int | None) -> None:
    if frame:
        raise ImageError(
            f"frame {frame} does not exist", why="arrays and Pillow images count as one frame", fix="Leave frame out"
        )
