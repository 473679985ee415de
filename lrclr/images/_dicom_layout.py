"""How a frame of a DICOM file is stored: its size, types and colours, as the attributes of the file give them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lrclr.errors import ImageError

if TYPE_CHECKING:
    from lrclr.images._dicom_attributes import Attributes

GREY = frozenset({"MONOCHROME1", "MONOCHROME2"})
_COLOUR = frozenset({"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"})
_PALETTE = "PALETTE COLOR"
# The attributes that hold pixel data, and the bits allocated that each allows.
PIXEL_KEYWORDS = {"PixelData": (1, 8, 16, 32), "FloatPixelData": (32,), "DoubleFloatPixelData": (64,)}


@dataclass(frozen=True)
class FrameLayout:
    """How the frames of a file are stored; sizes in pixels and bits."""

    pixel_keyword: str
    rows: int
    columns: int
    samples: int
    frames: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    photometric: str
    planes: bool

    @classmethod
    def of(cls, attributes: Attributes) -> FrameLayout:
        """Read the layout from a data set.

        Raises:
            ImageError: the file has no pixel data, or a required attribute is missing or not valid.
        """
        dataset = attributes.dataset
        keyword = next((name for name in PIXEL_KEYWORDS if dataset.get(name)), None)
        if keyword is None:
            raise ImageError(
                "the DICOM file holds no image",
                why="it has no pixel data: it may be a report, a document, a directory, or a truncated file",
                fix="Choose an image object",
            )
        integers = keyword == "PixelData"
        needed = ["Rows", "Columns", "PhotometricInterpretation", "BitsAllocated"]
        needed += ["BitsStored", "PixelRepresentation"] if integers else []
        missing = [name for name in needed if attributes.lacks(name)]
        if missing:
            raise ImageError(
                "the DICOM file does not say how its pixels are stored", why=f"it lacks {', '.join(missing)}"
            )
        photometric = _photometric(attributes)
        samples = _samples(attributes, photometric)
        allocated = attributes.required("BitsAllocated")
        stored = attributes.required("BitsStored") if integers else allocated
        layout = cls(
            pixel_keyword=keyword,
            rows=attributes.required("Rows"),
            columns=attributes.required("Columns"),
            samples=samples,
            frames=attributes.integer("NumberOfFrames", 1, 2**31 - 1) or 1,
            bits_allocated=allocated,
            bits_stored=stored,
            high_bit=stored - 1,
            signed=integers and attributes.required("PixelRepresentation", most=1) == 1,
            photometric=photometric,
            planes=samples > 1 and attributes.integer("PlanarConfiguration", 0, 1) == 1,
        )
        layout._check()
        high_bit = attributes.integer("HighBit", stored - 1, allocated - 1) if integers else None
        return layout if high_bit is None else replace(layout, high_bit=high_bit)

    def _check(self) -> None:
        fault = None
        if self.bits_allocated not in PIXEL_KEYWORDS[self.pixel_keyword]:
            fault = f"{self.bits_allocated} bits allocated are not supported"
        elif not 1 <= self.bits_stored <= self.bits_allocated:
            fault = f"{self.bits_stored} bits stored do not fit in the {self.bits_allocated} allocated"
        elif self.photometric not in GREY | _COLOUR | {_PALETTE}:
            fault = "the photometric interpretation is not supported"
        elif self.samples != (3 if self.photometric in _COLOUR else 1):
            fault = f"{self.samples} samples per pixel contradict the photometric interpretation"
        elif self.photometric in _COLOUR and (self.signed or self.pixel_keyword != "PixelData"):
            fault = "signed and floating-point colour are not supported"
        if fault:
            raise ImageError("the pixels of the DICOM file are stored in a way that lrclr does not read", why=fault)

    @property
    def bytes_needed(self) -> int:
        """Least length of uncompressed pixel data in bytes, all frames together."""
        bits = self.rows * self.columns * self.samples * self.bits_allocated * self.frames
        if self.photometric == "YBR_FULL_422":
            bits = bits // 3 * 2
        return math.ceil(bits / 8)


def _photometric(attributes: Attributes) -> str:
    written = str(attributes.value("PhotometricInterpretation")).strip(" \0")
    for known in sorted(GREY | _COLOUR | {_PALETTE}):
        if re.sub(r"[\s_]", "", known) == re.sub(r"[\s_]", "", written.upper()):
            if known != written:
                attributes.remark("PhotometricInterpretation is not written as the standard writes it")
            return known
    return written.upper()


def _samples(attributes: Attributes, photometric: str) -> int:
    samples = attributes.integer("SamplesPerPixel", 1, 4)
    if samples is not None:
        return samples
    attributes.remark("SamplesPerPixel is missing and is taken from PhotometricInterpretation")
    return 3 if photometric in _COLOUR else 1
