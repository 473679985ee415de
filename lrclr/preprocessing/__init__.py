"""From pixels to the image encoder's input, and from patches back to boxes in the image."""

from __future__ import annotations

from lrclr.preprocessing._spec import Geometry, PreprocessSpec, Triple
from lrclr.preprocessing._transform import from_canvas, preprocess, preprocess_batch, to_canvas

__all__ = ["Geometry", "PreprocessSpec", "Triple", "from_canvas", "preprocess", "preprocess_batch", "to_canvas"]
