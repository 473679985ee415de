"""Checks of DICOM attributes. No value of an attribute appears in a warning."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from typing import Any, Final

CHECKED_ATTRIBUTES: Final = (
    *("SOPClassUID", "Modality", "BodyPartExamined", "AnatomicRegionSequence", "ViewPosition", "ViewCodeSequence"),
    *("PatientOrientation", "PresentationIntentType", "BurnedInAnnotation", "ImageType"),
    *("PixelSpacing", "ImagerPixelSpacing", "PixelAspectRatio"),
)
"""Keywords of the attributes that are read. None of them identifies a patient."""

# OT ("other") is what digitised films and secondary captures have. It says nothing.
_MODALITIES: Final = frozenset({"CR", "DX", "RG", "OT"})
# They are parts of CHEST, CHESTABDOMEN, THORAX, TORAX, LUNG and CHEST PORT, and of words of other languages.
_CHEST: Final = (
    *("CHEST", "THOR", "TORA", "LUNG", "THX", "CXR", "PECHO", "PULM", "POLM", "POUMON", "POITRINE"),
    *("BRUST", "BORST", "BROST", "KLATKA", "ГРУД", "胸", "肺"),
)
_SPINE: Final = ("SPINE", "WIRBEL", "COLUMNA", "COLUNA", "COLONNE", "COLONNA", "RACHIS", "LUMB")
_NO_PART: Final = frozenset({"UNKNOWN", "OTHER", "NA", "N/A", "N.A.", "NONE"})
# Thorax, lung, both lungs, thoracic cavity: of SNOMED CT, and of SNOMED RT before it.
_CHEST_CODES: Final = frozenset(
    {"51185008", "39607008", "74101002", "43799004", "T-D3000", "T-28000", "T-D3050", "T-D3213"}
)
_FRONTAL: Final = frozenset({"AP", "PA", "ANTEROPOSTERIOR", "POSTEROANTERIOR", "FRONTAL"})
# Decubitus views have a frontal beam and lie on their side.
_NOT_FRONTAL: Final = frozenset({"LL", "RL", "LAT", "LATERAL", "LLD", "RLD", "DECUBITUS", "OBLIQUE", "LLO", "RLO"})
_SECONDARY_CAPTURES: Final = "1.2.840.10008.5.1.4.1.1.7"
# Digital X-Ray Image Storage - For Processing, and the same of mammography and intra-oral images.
_FOR_PROCESSING: Final = re.compile(r"1\.2\.840\.10008\.5\.1\.4\.1\.1\.1\.[123]\.1$")
_LEAST_MM, _MOST_MM = 150.0, 550.0
_LEAST_STRETCH: Final = 0.02


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
    if not _may_be_chest(_text(value("BodyPartExamined")), value("AnatomicRegionSequence")):
        yield "other_body_part"
    view = _text(value("ViewPosition"))
    named = view or _first(value("ViewCodeSequence"), "CodeMeaning")
    # "A-P" is one word, and "AP-SUPINE" are two.
    words = frozenset(re.findall(r"[A-Z]+", f"{named} {re.sub('[-./]', '', named)}"))
    # A code's meaning is free text, in any language: only words for other views count.
    is_other = bool(words & _NOT_FRONTAL) or (bool(view) and not words & _FRONTAL)
    # The rows of a lateral view run from back to front.
    if is_other or (not view and _value(value("PatientOrientation"), 0)[:1] in {"A", "P"}):
        yield "other_view"
    if _text(value("PresentationIntentType")) == "FOR PROCESSING" or _FOR_PROCESSING.match(sop_class):
        yield "for_processing"
    if _text(value("BurnedInAnnotation")) == "YES":
        yield "burned_in"
    is_capture = sop_class == _SECONDARY_CAPTURES or sop_class.startswith(f"{_SECONDARY_CAPTURES}.")
    if is_capture or _value(value("ImageType"), 1) == "SECONDARY":
        yield "secondary_capture"
    aspect, *spacings = (_pair(value(name)) for name in ("PixelAspectRatio", "PixelSpacing", "ImagerPixelSpacing"))
    # Some writers put 1 mm where they do not know the spacing.
    spacing = next((pair for pair in spacings if pair not in {None, (1, 1)}), None)
    if any(pair is not None and abs(pair[0] / pair[1] - 1) > _LEAST_STRETCH for pair in (aspect, spacing)):
        yield "pixel_aspect"
    if spacing is not None:
        edges = spacing[0] * rows, spacing[1] * columns
        if min(edges) < _LEAST_MM or max(edges) > _MOST_MM:
            yield "field_size"


def _may_be_chest(examined: str, region: Any) -> bool:
    if not examined and _first(region, "CodeValue") in _CHEST_CODES:
        return True
    letters = unicodedata.normalize("NFKD", examined or _first(region, "CodeMeaning"))
    named = "".join(each for each in letters if not unicodedata.combining(each))
    if any(part in named for part in _SPINE):
        return False
    return not named or named in _NO_PART or any(part in named for part in _CHEST)


def _text(value: Any) -> str:
    return value.strip(" \0").upper() if isinstance(value, str) else ""


def _value(value: Any, place: int) -> str:
    """One of several texts."""
    try:
        return _text(value[place]) if not isinstance(value, str) else ""
    except (IndexError, KeyError, TypeError):
        return ""


def _first(sequence: Any, keyword: str) -> str:
    """A text of a sequence's first item."""
    try:
        return _text(getattr(sequence[0], keyword))
    except Exception:  # noqa: BLE001 - pydicom raises nearly anything on a value that is not of its VR
        return ""


def _pair(value: Any) -> tuple[float, float] | None:
    try:
        vertical, horizontal = (float(each) for each in value)
    except (TypeError, ValueError):
        return None
    return (vertical, horizontal) if vertical > 0.0 and horizontal > 0.0 else None
