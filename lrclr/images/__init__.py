"""Reads radiographs from files, bytes, arrays and Pillow images as 8-bit pictures, within limits of size and memory."""

from __future__ import annotations

from lrclr.images._find import FoundImages, describe_passed_over, find_images
from lrclr.images._for_model import read_for_model
from lrclr.images._limits import ReadLimits
from lrclr.images._read import read_image, read_reduced
from lrclr.images._reduced import ReducedImage

__all__ = [
    "FoundImages",
    "ReadLimits",
    "ReducedImage",
    "describe_passed_over",
    "find_images",
    "read_for_model",
    "read_image",
    "read_reduced",
]
