"""The three ways from a file to the network's input.

- baseline: the usual way. Pillow reads rasters in colour, ``Image.open(path).convert("RGB")``. pydicom reads DICOM:
  ``pixel_array`` (RLE by pydicom's decoder, JPEG 2000 by pylibjpeg-openjpeg, lossless JPEG by GDCM),
  ``apply_modality_lut``, ``apply_voi_lut``, scaled from floats to 8 bits, three channels.
- exact: `lrclr.read_image`.
- fast: `lrclr.images.read_reduced`, as `lrclr predict` reads.

Each ends with lrclr's own `preprocess`, so that only the reading differs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pydicom
from PIL import Image
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import JPEG2000Lossless, JPEGLosslessSV1, RLELossless

from lrclr import read_image
from lrclr.images import read_reduced
from lrclr.preprocessing import preprocess

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from lrclr.preprocessing import PreprocessSpec

__all__ = ["WAYS", "baseline", "exact", "fast"]

_PLUGINS = {RLELossless: "pydicom", JPEG2000Lossless: "pylibjpeg", JPEGLosslessSV1: "gdcm"}


def baseline(path: Path, spec: PreprocessSpec) -> NDArray[np.float32]:
    """The usual way, with Pillow and pydicom."""
    if path.suffix != ".dcm":
        with Image.open(path) as image:
            return preprocess(np.asarray(image.convert("RGB")), spec)
    dataset = pydicom.dcmread(path)
    plugin = _PLUGINS.get(dataset.file_meta.TransferSyntaxUID)
    if plugin is not None:
        dataset.pixel_array_options(decoding_plugin=plugin)
    values = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset).astype(np.float64)
    values -= values.min()
    values /= max(values.max(), 1e-9)
    levels = (values * 255).astype(np.uint8)
    return preprocess(np.stack([levels] * 3, axis=-1), spec)


def exact(path: Path, spec: PreprocessSpec) -> NDArray[np.float32]:
    """All pixels, by `lrclr.read_image`."""
    return preprocess(read_image(path), spec)


def fast(path: Path, spec: PreprocessSpec) -> NDArray[np.float32]:
    """As few pixels as the network needs, by `lrclr.images.read_reduced`."""
    return preprocess(read_reduced(path, spec), spec)


WAYS = {"baseline": baseline, "exact": exact, "fast": fast}
