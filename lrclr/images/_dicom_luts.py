"""Reads the lookup tables and windows of a DICOM data set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lrclr.errors import ImageError
from lrclr.images._display import Display, Lut, Rescale, Window

if TYPE_CHECKING:
    from lrclr.images._dicom_attributes import Attributes
    from lrclr.images._dicom_layout import FrameLayout

_Limits = tuple[float, float]
_Table = tuple[int, NDArray[np.uint16], int]
_FUNCTIONS = frozenset({"LINEAR", "LINEAR_EXACT", "SIGMOID"})
_SHAPES = frozenset({"IDENTITY", "INVERSE"})
# Above this limit, sums and products could become infinite.
_GREATEST = 1e300


def display_of(attributes: Attributes, layout: FrameLayout) -> Display:
    """Read how to display the grey values of a data set. An optional value that is not valid is ignored, with a remark.

    MONOCHROME1 or a presentation LUT shape of INVERSE inverts the picture. Both together invert it once: the standard
    requires both for an inverted radiograph, and they mean the same.
    """
    shape = attributes.term("PresentationLUTShape", _SHAPES)
    modality = _modality(attributes, layout)
    return Display(
        modality=modality,
        voi=_voi(attributes, _limits(layout, modality)),
        padding=_padding(attributes, layout),
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
    tables = []
    for colour in ("Red", "Green", "Blue"):
        name = f"{colour}PaletteColorLookupTable"
        if f"{name}Data" not in dataset or f"{name}Descriptor" not in dataset:
            raise ImageError("the DICOM file lacks the palette that its colours need")
        tables.append(_lut(dataset, f"{name}Descriptor", f"{name}Data", _limits(layout), little=_is_little(dataset)))
    # All three tables share one white; otherwise the colours would change. PS3.3 C.7.6.3.1.5 defines entries of 8 and
    # of 16 bits.
    greatest, bits = max(int(entries.max()) for _, entries, _ in tables), tables[0][2]
    white = 2**bits - 1
    if not 8 <= bits <= 16 or (bits > 8) != (greatest > 255):
        white = 255 if greatest <= 255 else 65535
    return [Lut(first, entries, white) for first, entries, _ in tables]


def _modality(attributes: Attributes, layout: FrameLayout) -> Rescale | Lut | None:
    table = _sequence_lut(attributes, "ModalityLUTSequence", _limits(layout))
    if table is not None:
        first, entries, bits = table
        return Lut(first, entries, 2**bits - 1)
    slope, intercept = attributes.number("RescaleSlope"), attributes.number("RescaleIntercept")
    if slope == 0:
        attributes.ignore("RescaleSlope")
        slope = None
    if slope is None and intercept is None:
        return None
    rescale = Rescale(1.0 if slope is None else slope, 0.0 if intercept is None else intercept)
    if max(map(abs, (rescale.slope * 2.0**layout.bits_allocated, rescale.intercept))) > _GREATEST:
        attributes.remark("RescaleSlope and RescaleIntercept give values that are too large and are ignored")
        return None
    return rescale


def _limits(layout: FrameLayout, modality: Rescale | Lut | None = None) -> _Limits:
    """Least and greatest value that pixels can have, stored or after the modality transform."""
    span = 2.0**layout.bits_stored
    ends = (-span / 2, span / 2 - 1) if layout.signed else (0.0, span - 1)
    if isinstance(modality, Lut):
        return 0.0, float(2**16 - 1)
    if modality is None:
        return ends
    values = [modality.slope * end + modality.intercept for end in ends]
    return min(values), max(values)


def _voi(attributes: Attributes, limits: _Limits) -> Window | Lut | None:
    table = _sequence_lut(attributes, "VOILUTSequence", limits)
    if table is not None:
        first, entries, bits = table
        return Lut(first, entries, _white(attributes, entries, bits))
    centers, widths = attributes.numbers("WindowCenter"), attributes.numbers("WindowWidth")
    function = attributes.term("VOILUTFunction", _FUNCTIONS) or "LINEAR"
    if not centers or not widths:
        if centers or widths:
            attributes.remark("WindowCenter or WindowWidth is missing, and the other one is ignored")
        return None
    if len(centers) != len(widths):
        attributes.remark("WindowCenter and WindowWidth differ in the number of their values, and the first are used")
    # Some scanners write windows that are not valid, mostly of width 0. Viewers ignore them and show the whole range.
    if widths[0] <= 0 or not abs(centers[0]) + widths[0] < _GREATEST:
        attributes.ignore("WindowWidth" if widths[0] <= 0 else "WindowCenter")
        return None
    return Window(centers[0], widths[0], function)


def _padding(attributes: Attributes, layout: FrameLayout) -> tuple[float, float] | None:
    if layout.pixel_keyword != "PixelData":
        return None
    span = 2**layout.bits_allocated
    value = attributes.integer("PixelPaddingValue", -span // 2, span - 1)
    if value is None:
        return None
    limit = attributes.integer("PixelPaddingRangeLimit", -span // 2, span - 1)
    ends = [_as_stored(end, layout) for end in (value, value if limit is None else limit)]
    return min(ends), max(ends)


def _as_stored(value: float, layout: FrameLayout) -> float:
    """Convert a value to the signedness of the pixels: in explicit VR, a writer may use the other one."""
    span = float(2**layout.bits_allocated)
    if layout.signed and value >= span / 2:
        return value - span
    if not layout.signed and value < 0:
        return value + span
    return value


def _white(attributes: Attributes, entries: NDArray[np.uint16], bits: int) -> int:
    """Return the entry of a VOI LUT that is shown as white.

    This is the greatest value of the declared bits, if the entries need exactly that many bits. If they need fewer or
    more, as in some files from Agfa, the declared bits are wrong, and white is the greatest entry. Viewers also look at
    the entries: Cornerstone (``getVOILut``) uses the bits that the greatest entry needs, and Horos
    (``VOILookupTable``) shows the range from the least to the greatest entry.
    """
    greatest = int(entries.max())
    if greatest.bit_length() == bits:
        return int(2**bits - 1)
    attributes.remark("the bits in LUTDescriptor of VOILUTSequence do not match LUTData; the greatest entry is white")
    return greatest


def _sequence_lut(attributes: Attributes, keyword: str, limits: _Limits) -> _Table | None:
    """Read the table in the first item of a sequence; None if it is absent or not valid."""
    item = attributes.item(keyword)
    if item is None:
        return None
    try:
        table = _lut(item, "LUTDescriptor", "LUTData", limits, little=_is_little(attributes.dataset))
    except Exception:  # noqa: BLE001 - on values that are not of their VR, pydicom and NumPy raise nearly anything
        attributes.ignore(keyword)
        return None
    if table[1].min() == table[1].max():
        # Such a table would make the whole picture one grey level.
        attributes.ignore(keyword)
        return None
    return table


def _is_little(dataset: Any) -> bool:
    return bool(dataset.original_encoding[1])


def _lut(holder: Any, descriptor: str, data: str, limits: _Limits, *, little: bool) -> _Table:
    """Read a lookup table. Its entries may be words, words written as bytes, or bytes.

    Returns:
        The first mapped value, the entries, and the declared bits of an entry.

    Raises:
        ImageError: the table has fewer entries than its descriptor says.
        Exception: nearly any other, if the descriptor or the data are not valid.
    """
    count, first, bits = (int(number) for number in holder[descriptor].value)
    count = count & 0xFFFF or 2**16
    least, greatest = limits
    # The first value may be written as an unsigned word.
    if first >= 2**15 and least < 0 and (first > greatest or greatest < 2**15):
        first -= 2**16
    value = holder[data].value
    order = "<" if little else ">"
    raw = value
    if not isinstance(value, bytes):
        raw = (np.atleast_1d(np.asarray(value, dtype=np.int64)) & 0xFFFF).astype(f"{order}u2").tobytes()
    if len(raw) >= 2 * count:
        entries = np.frombuffer(raw, dtype=f"{order}u2", count=count)
    elif len(raw) - len(raw) % 2 == count or (bits <= 8 and len(raw) >= count):
        # Two entries in each word, whatever the descriptor says.
        entries = np.frombuffer(raw, dtype=np.uint8, count=count)
    else:
        raise ImageError("a lookup table of the DICOM file is damaged", why=f"it is shorter than its {count} entries")
    return first, entries.astype(np.uint16), bits
