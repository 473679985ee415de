"""Reads an image file for a model. Every command that runs a model reads images with this function."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, BinaryIO

from lrclr.images._limits import ReadLimits
from lrclr.images._read import read_whole
from lrclr.images._reduced import Wanted
from lrclr.input_checks import pixel_warnings

if TYPE_CHECKING:
    import os

    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from lrclr.images._reduced import ReducedImage
    from lrclr.images._resize import ResizeSpec

_DEFAULT_LIMITS = ReadLimits()


def read_for_model(
    source: str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | NDArray[np.generic] | Image.Image,
    spec: ResizeSpec,
    *,
    exact: bool = False,
    frame: int | None = None,
    limits: ReadLimits = _DEFAULT_LIMITS,
) -> ReducedImage:
    """Read an image for `lrclr.preprocessing.preprocess`.

    Prediction, the server, scoring, evaluation, training, calibration and the benchmark all use this function. So a
    model is evaluated on the same pixels that it gets in service. The result has the warnings of `lrclr.input_checks`.

    Args:
        source: as for `read_image`.
        spec: preprocessing of the model.
        exact: decode every pixel, as `read_image` does. By default large images are read as by `read_reduced`, which
            is several times faster; its documentation says by how much the pixels differ.
        frame: frame to read, from 0, if the file has several.
        limits: limits that are checked before decoding.

    Raises:
        ImageError, ImageLimitError, MissingExtraError, UsageError: as `read_image` and `read_reduced`.
    """
    read = read_whole(source, frame=frame, limits=limits, wanted=None if exact else Wanted(spec))
    found = pixel_warnings(read.pixels, read.height, read.width, spec.image_size)
    return replace(read, warnings=(*read.warnings, *found))
