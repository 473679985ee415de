"""`read_image` and `read_reduced`: the doors through which every picture comes in."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, BinaryIO, cast

import numpy as np
from PIL import Image

from lrclr import budget
from lrclr.errors import ImageError, UsageError
from lrclr.images._arrays import picture_from_array
from lrclr.images._dicom import decode_dicom, looks_like_dicom, reduce_dicom
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

__all__ = ["read_image", "read_reduced", "read_whole"]

_DEFAULT_LIMITS = ReadLimits()


def read_image(
    source: str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | NDArray[np.generic] | Image.Image,
    *,
    frame: int | None = None,
    limits: ReadLimits = _DEFAULT_LIMITS,
) -> NDArray[np.uint8]:
    """Read one radiograph as an 8-bit picture in which bright means bright.

    The content decides the format, never the name: PNG, JPEG, TIFF or DICOM (with or without its preamble).

    - 16-bit grey is scaled over its full range, with rounding: 65535 becomes 255. Colour of 16 bits keeps its high
      byte.
    - Transparency is laid on black. The orientation that EXIF asks for is applied. TIFF "white is zero" is turned
      round.
    - DICOM is brought to display: modality LUT or rescale, then the first VOI LUT, else the first window, else the
      range from the frame's least to its greatest value without padding; MONOCHROME1 is inverted; padding is black.
      Only the top level of the data set is looked at, not functional groups.
      An optional attribute that has no meaning is as if it were not there.
    - Arrays are `[H, W]`, `[H, W, 1]`, `[H, W, 3]` (RGB) or `[H, W, 4]` (RGBA) of bool, uint8, uint16 (full range) or
      floats in [0, 1]. A Pillow image counts as its current frame.

    Args:
        source: a path, encoded bytes, a binary file object, an array or a Pillow image. None of them is changed or
            closed, but a Pillow image is loaded.
        frame: which frame, from 0. It must be given for a file with several of them.
        limits: what is refused before decoding.

    Returns:
        `[H, W]` grey or `[H, W, 3]` RGB: a new, writable, C-contiguous uint8 array.

    Raises:
        ImageError: the source cannot be read, is damaged or truncated, is none of the formats, or needs another
            `frame`.
        ImageLimitError: the source or the picture is larger than `limits`, or takes more memory than `lrclr.budget`
            gives a process.
        MissingExtraError: the source is DICOM, and pydicom or the decoder of its transfer syntax is not installed.
        UsageError: `source` or `frame` is of the wrong type.
    """
    return cast("NDArray[np.uint8]", read_whole(source, frame=frame, limits=limits).pixels)


def read_whole(
    source: str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | NDArray[np.generic] | Image.Image,
    *,
    frame: int | None = None,
    limits: ReadLimits = _DEFAULT_LIMITS,
) -> ReducedImage:
    """As `read_image`, with remarks on the file beside the picture."""
    index = _checked_frame(frame)
    with budget.reading():
        if isinstance(source, np.ndarray):
            _only_frame(index)
            return ReducedImage.whole(picture_from_array(source, limits))
        if isinstance(source, Image.Image):
            _only_frame(index)
            return ReducedImage.whole(picture_from_pillow(source, limits))
        data = read_bytes(source, limits)
        opener = _opener_of(data)
        return decode_dicom(data, index, limits) if opener is None else decode_raster(data, opener, index, limits)


def read_reduced(
    source: str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | NDArray[np.generic] | Image.Image,
    spec: ResizeSpec,
    *,
    frame: int | None = None,
    limits: ReadLimits = _DEFAULT_LIMITS,
) -> ReducedImage:
    """Read one radiograph for a model: what `read_image` gives, with no more pixels than preprocessing needs.

    JPEG 2000 in DICOM is decoded without the finest levels of its wavelet, where a window or a VOI LUT is given that is
    straight over the values that lie side by side, and where the levels that are left out hold no strong detail. It is
    several times faster, and what `preprocess` makes of the picture differs by half a grey level of 255 on average at
    most, and by 4 anywhere. All else is read as `read_image` does: no filter that is cheaper than the resize itself
    keeps to that with fine patterns of strong contrast.

    Args:
        source, frame, limits: as for `read_image`.
        spec: the recipe that it will be preprocessed with.

    Returns:
        The picture, and the size that it has in full. Its pixels may be read-only.

    Raises:
        ImageError, ImageLimitError, MissingExtraError, UsageError: as `read_image` and `preprocess`.
    """
    if isinstance(source, (np.ndarray, Image.Image)):
        return read_whole(source, frame=frame, limits=limits)
    index = _checked_frame(frame)
    with budget.reading():
        data = read_bytes(source, limits)
        opener = _opener_of(data)
        if opener is None:
            return reduce_dicom(data, index, limits, Wanted(spec))
        return decode_raster(data, opener, index, limits)


def _opener_of(data: bytes) -> Callable[[BytesIO], ImageFile.ImageFile] | None:
    """Return what opens a file in Pillow; None for DICOM."""
    # DICOM first: its preamble may lawfully hold the header of another format.
    if looks_like_dicom(data):
        return None
    for signature, opener in SIGNATURES.items():
        if data.startswith(signature):
            return opener
    raise ImageError(
        "the file is not an image that lrclr reads",
        why="it is neither PNG, JPEG, TIFF nor DICOM",
        fix="Convert it to one of those",
    )


def _checked_frame(frame: int | None) -> int | None:
    if frame is None:
        return None
    try:
        number = -1 if isinstance(frame, bool) else operator.index(frame)
    except TypeError:
        number = -1
    if number < 0:
        raise UsageError(f"frame is {frame!r}", why="a frame is a whole number from 0")
    return number


def _only_frame(frame: int | None) -> None:
    if frame:
        raise ImageError(
            f"there is no frame {frame}", why="arrays and Pillow images count as one frame", fix="Leave frame out"
        )
