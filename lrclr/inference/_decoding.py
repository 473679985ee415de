"""From image sources to the network's input, in threads, a few batches ahead of the network."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import numpy as np
from PIL import Image

from lrclr._prefetch import batches_ahead
from lrclr.budget import reading
from lrclr.errors import LrclrError, UsageError
from lrclr.images import ReadLimits, ReducedImage, read_for_model
from lrclr.preprocessing import preprocess

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from lrclr.preprocessing import PreprocessSpec

BATCH_SIZE = 8
"""Images that the image encoder takes at once, unless the caller says otherwise."""

ImageSource = (
    str
    | os.PathLike[str]
    | bytes
    | bytearray
    | memoryview
    | BinaryIO
    | np.ndarray[Any, np.dtype[Any]]
    | Image.Image
    | ReducedImage
)
"""A path, the bytes of an image file, a binary file object, an array or a Pillow image: what `read_image` takes. An
image that was read already is used as it is."""
Source = TypeVar("Source", bound=ImageSource)


@dataclass(frozen=True)
class DecodedImage:
    """An image as the network takes it.

    Attributes:
        pixel_values: float32 ``[3, S, S]``, preprocessed.
        size: height and width of the original image, in pixels.
        remarks: what was ignored in the image's file; see `lrclr.images.ReducedImage`.
        warnings: codes of `lrclr.input_checks`.
    """

    pixel_values: NDArray[np.float32]
    size: tuple[int, int]
    remarks: tuple[str, ...]
    warnings: tuple[str, ...]


def decoded_batches(
    sources: Sequence[Source],
    spec: PreprocessSpec,
    *,
    batch_size: int = BATCH_SIZE,
    workers: int | None = None,
    frame: int | None = None,
    limits: ReadLimits | None = None,
    exact: bool = False,
) -> Iterator[list[tuple[Source, DecodedImage | LrclrError]]]:
    """Read and preprocess images, and yield them in batches, in order. At most two batches wait.

    Args:
        sources: what to read.
        spec: the recipe of preprocessing.
        batch_size: most images of a batch.
        workers: threads that decode; None for one a processor.
        frame, limits, exact: as for `lrclr.images.read_for_model`.

    Yields:
        Each source of a batch, with its image or the error that it gave.
    """
    bounds = limits or ReadLimits()

    @reading()
    def decode(source: Source) -> DecodedImage:
        read: ReducedImage
        if isinstance(source, ReducedImage):
            read = source
        else:
            read = read_for_model(source, spec, exact=exact, frame=frame, limits=bounds)
        return DecodedImage(preprocess(read, spec), (read.height, read.width), read.remarks, read.warnings)

    yield from batches_ahead(sources, decode, batch_size=batch_size, workers=workers)


def require_list(images: object) -> None:
    """Raise UsageError for one image instead of a list, and for an array that may be either."""
    if isinstance(images, np.ndarray) and images.ndim == 3 and images.shape[0] in {1, 3, 4} and images.shape[2] > 4:
        raise UsageError(
            f"an array {list(images.shape)} may be one picture, with its channels first, or several pictures",
            fix="Write [array.transpose(1, 2, 0)] for one picture, or list(array) for several.",
        )
    if _is_one_image(images):
        raise UsageError("one image was given instead of a list of images", fix="Write [image].")


def _is_one_image(images: object) -> bool:
    """Whether this is an image source, and not a sequence of them."""
    if isinstance(images, np.ndarray):
        return images.ndim < 3 or (images.ndim == 3 and images.shape[2] in {1, 3, 4})
    one = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image, ReducedImage)
    return isinstance(images, one) or hasattr(images, "read")
