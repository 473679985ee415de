"""Reading radiographs: files, bytes, arrays and Pillow images become 8-bit pictures, within limits."""

from __future__ import annotations

from lrclr.images._limits import ReadLimits
from lrclr.images._read import read_image, read_reduced
from lrclr.images._reduced import ReducedImage

__all__ = ["ReadLimits", "ReducedImage", "read_image", "read_reduced"]
