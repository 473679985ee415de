"""Checks of DICOM attributes. No value of an attribute appears in a warning."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, Final

CHECKED_ATTRIBUTES: Final = (
    *("SOPClassUID", "Modality", "BodyPartExamined", "AnatomicRegionSequence", "ViewPosition", "ViewCodeSequence"),
    *("PresentationIntentType", "BurnedInAnnotation", "ImageType", "PixelSpacing", "ImagerPixelSpacing"),
)
"""Keywords of the attributes that are read. None of them identifies a patient."""

# OT ("other") is what digitised films and secondary captures have. It says nothing.
_MODALITIES: Final = frozenset({"CR", "DX", "RG", "OT"})
# They are parts of CHEST, CHESTABDOMEN, THORAX, TORAX, LUNG and CHEST PORT.
_CHEST: Final = ("CHEST", "THOR", "TORA", "LUNG", "THX", "CXR")
_FRONTAL: Final = frozenset({"AP", "PA", "ANTEROPOSTERIOR", "POSTEROANTERIOR", "FRONTAL"})
# Decubitus views have a frontal beam and lie on their side.
_NOT_FRONTAL: Final = frozenset({"LL", "RL", "LAT", "LATERAL", "LLD", "RLD", "DECUBITUS", "OBLIQUE", "LLO", "RLO"})
_SECONDARY_CAPTURES: Final = "1.2.840.10008.5.1.4.1.1.7"
# Digital X-Ray Image Storage - For Processing, and the same of mammography and intra-oral images.
_FOR_PROCESSING: Final = re.compile(r"1\.2\.840\.10008\.5\.1\.4\.1\.1\.1\.[123]\.1$")
_LEAST_MM, _MOST_MM = 150.0, 550.0


def tag_warnings(value: Callable[[str], Any], rows: int, columns: int) -> tuple[str, ...]:
    """Codes of the warnings that the attributes of a DICOM image give.

    An attribute that is absent, empty or not valid gives no warning.

    Args:
        value: returns the value of an attribute by its keyword, or None.
        rows, columns: size of the image in pixels.
    """
    return tuple(_found(value, rows, columns))


def _found(value: Callable[[str], Any], rows: int, columns: int) -> Iterator[str]:
    sop_class, modality = _text(value("SOPClassUID")), _text(value("Modality"))
    if modality and modality not in _MODALITIES:
        yield "other_modality"
    body_part = _text(value("BodyPartExamined")) or _meaning(value("AnatomicRegionSequence"))
    if body_part and not any(part in body_part for part in _CHEST):
        yield "other_body_part"
    view = _text(value("ViewPosition"))
    words = frozenset(re.findall(r"[A-Z]+", view or _meaning(value("ViewCodeSequence")).replace("-", "")))
    # A code's meaning is free text, in any language: only words for other views count.
    if words & _NOT_FRONTAL or (view and not words & _FRONTAL):
        yield "other_view"
    if _text(value("PresentationIntentType")) == "FOR PROCESSING" or _FOR_PROCESSING.match(sop_class):
        yield "for_processing"
    if _text(value("BurnedInAnnotation")) == "YES":
        yield "burned_in"
    is_capture = sop_class == _SECONDARY_CAPTURES or sop_class.startswith(f"{_SECONDARY_CAPTURES}.")
    if is_capture or _second(value("ImageType")) == "SECONDARY":
        yield "secondary_capture"
    spacing = _spacing(value("PixelSpacing")) or _spacing(value("ImagerPixelSpacing"))
    if spacing is not None:
        edges = spacing[0] * rows, spacing[1] * columns
        if min(edges) < _LEAST_MM or max(edges) > _MOST_MM:
            yield "field_size"


def _text(value: Any) -> str:
    return value.strip(" \0").upper() if isinstance(value, str) else ""


def _second(value: Any) -> str:
    """The second of several texts."""
    try:
        return _text(value[1]) if not isinstance(value, str) else ""
    except (IndexError, KeyError, TypeError):
        return ""


def _meaning(sequence: Any) -> str:
    """The meaning of a code sequence's first item."""
    try:
        return _text(sequence[0].CodeMeaning)
    except Exception:  # noqa: BLE001 - pydicom raises nearly anything on a value that is not of its VR
        return ""


def _spacing(value: Any) -> tuple[float, float] | None:
    try:
        vertical, horizontal = (float(each) for each in value)
    except (TypeError, ValueError):
        return None
    return (vertical, horizontal) if vertical > 0.0 and horizontal > 0.0 else None
