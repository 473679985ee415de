"""The lookup tables and windows of a DICOM data set."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from lrclr.errors import ImageError
from lrclr.images._display import Display, Lut, Rescale, Window

if TYPE_CHECKING:
    from lrclr.images._dicom_frame import FrameLayout

__all__ = ["display_of", "palette_of"]

_FUNCTIONS = frozenset({"LINEAR", "LINEAR_EXACT", "SIGMOID"})


def display_of(dataset: Any, layout: FrameLayout) -> Display:
    """Read how the grey values of a data set are to be shown.

    Either MONOCHROME1 or a presentation LUT shape of INVERSE inverts. Both together invert once: for radiographs the
    standard asks for both, and they say the same.

    Raises:
        ImageError: a rescale, a lookup table or a VOI function has no meaning.
    """
    shape = str(dataset.get("PresentationLUTShape") or "").strip().upper()
    return Display(
        modality=_modality(dataset, layout),
        voi=_voi(dataset, layout),
        padding=_padding(dataset, layout),
        inverted=layout.photometric == "MONOCHROME1" or shape == "INVERSE",
    )


def palette_of(dataset: Any, layout: FrameLayout) -> list[Lut]:
    """Read the red, green and blue palettes of a data set.

    Raises:
        ImageError: they are missing, segmented or damaged.
    """
    if dataset.get("SegmentedRedPaletteColorLookupTableData") is not None:
        raise ImageError(
            "the DICOM file has a segmented colour palette, which is not supported", fix="Export it as RGB"
        )
    luts = []
    for colour in ("Red", "Green", "Blue"):
        name = f"{colour}PaletteColorLookupTable"
        if f"{name}Data" not in dataset or f"{name}Descriptor" not in dataset:
            raise ImageError("the DICOM file lacks the palette that its colours need")
        luts.append(_lut(dataset, f"{name}Descriptor", f"{name}Data", layout, little=_is_little(dataset)))
    return luts


def _modality(dataset: Any, layout: FrameLayout) -> Rescale | Lut | None:
    if items := dataset.get("ModalityLUTSequence"):
        return _lut(items[0], "LUTDescriptor", "LUTData", layout, little=_is_little(dataset))
    slope, intercept = _first(dataset, "RescaleSlope"), _first(dataset, "RescaleIntercept")
    if slope is None and intercept is None:
        return None
    rescale = Rescale(1.0 if slope is None else slope, 0.0 if intercept is None else intercept)
    if rescale.slope == 0 or not (math.isfinite(rescale.slope) and math.isfinite(rescale.intercept)):
        raise ImageError("the rescale slope of the DICOM file is 0 or not a number, which would wipe out the picture")
    return rescale


def _voi(dataset: Any, layout: FrameLayout) -> Window | Lut | None:
    items = dataset.get("VOILUTSequence")
    if items and "LUTData" in items[0]:
        return _lut(items[0], "LUTDescriptor", "LUTData", layout, little=_is_little(dataset))
    center, width = _first(dataset, "WindowCenter"), _first(dataset, "WindowWidth")
    if center is None or width is None:
        return None
    # Scanners do write windows without meaning, mostly of width 0. Viewers pass over them, and so the range is shown.
    if not (math.isfinite(center) and math.isfinite(width) and width > 0):
        return None
    function = str(dataset.get("VOILUTFunction") or "LINEAR").strip().upper()
    if function not in _FUNCTIONS:
        raise ImageError("the DICOM file asks for a VOI LUT function that the standard does not have")
    return Window(center, width, function)


def _padding(dataset: Any, layout: FrameLayout) -> tuple[float, float] | None:
    value, limit = _first(dataset, "PixelPaddingValue"), _first(dataset, "PixelPaddingRangeLimit")
    if value is None or layout.pixel_keyword != "PixelData":
        return None
    ends = [_as_stored(end, layout) for end in (value, value if limit is None else limit)]
    return min(ends), max(ends)


def _as_stored(value: float, layout: FrameLayout) -> float:
    """Read a value in the signedness of the pixels: in explicit VR it may be written in the other."""
    span = float(2**layout.bits_allocated)
    if layout.signed and value >= span / 2:
        return value - span
    if not layout.signed and value < 0:
        return value + span
    return value


def _first(dataset: Any, keyword: str) -> float | None:
    """Return a number, the first if there are several."""
    value = dataset.get(keyword)
    if value is None or isinstance(value, (int, float)):
        return None if value is None else float(value)
    if isinstance(value, str):
        return float(value) if value.strip() else None
    return float(value[0]) if len(value) else None


def _is_little(dataset: Any) -> bool:
    return bool(dataset.original_encoding[1])


def _lut(holder: Any, descriptor: str, data: str, layout: FrameLayout, *, little: bool) -> Lut:
    """Read a lookup table, whose entries may be words, words as bytes, or bytes."""
    count, first, bits = (int(number) for number in holder[descriptor].value)
    count = count & 0xFFFF or 2**16
    if layout.signed and first >= 2**15:
        first -= 2**16
    if not 1 <= bits <= 16:
        raise ImageError("a lookup table of the DICOM file is damaged", why=f"it claims entries of {bits} bits")
    value = holder[data].value
    order = "<" if little else ">"
    raw = value if isinstance(value, bytes) else np.atleast_1d(np.asarray(value, dtype=f"{order}u2")).tobytes()
    if len(raw) >= 2 * count:
        entries = np.frombuffer(raw, dtype=f"{order}u2", count=count)
    elif bits <= 8 and len(raw) >= count:
        entries = np.frombuffer(raw, dtype=np.uint8, count=count)
    else:
        raise ImageError("a lookup table of the DICOM file is damaged", why=f"it is shorter than its {count} entries")
    return Lut(first, entries.astype(np.uint16), bits)
