"""Codes of warnings, each with a sentence for people."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final

from lrclr.errors import ImageError, UsageError

SENTENCES: Final[Mapping[str, str]] = {
    "other_modality": "Modality is not CR, DX, RG or OT",
    "other_body_part": "the body part is given and is not the chest",
    "other_view": "the view is given and is not frontal (AP or PA)",
    "for_processing": "the image is raw detector data: its presentation intent is FOR PROCESSING",
    "burned_in": "the file says that text is burnt into the pixels",
    "secondary_capture": "the file is a secondary capture, not the image of the device",
    "field_size": "an edge of the field is shorter than 150 mm or longer than 550 mm",
    "pixel_aspect": "the pixels are not square, so the picture is stretched",
    "narrow_range": "the values use less than half of the range from black to white that the file has",
    "tiny": "an edge has fewer than half as many pixels as the model's input",
    "extreme_shape": "one edge is much longer than the other",
    "flat": "the picture has almost no contrast",
    "noise": "neighbouring pixels are unrelated, as in noise",
    "colour": "the picture has colours",
    "one_level": "a large part of the picture has one bright level, as in documents and screenshots",
    "inverted": "bright and dark seem to be exchanged",
    "turned": "the picture seems to be turned by a quarter",
    "upside_down": "the picture seems to be upside down",
}
"""A sentence for each code, in the order in which codes are reported."""

CODES: Final = tuple(SENTENCES)
"""All codes of warnings."""


def described(codes: Iterable[str]) -> str:
    """Codes with their sentences, for people."""
    # A newer server may send a code that this version does not know.
    return "; ".join(f"{code} ({SENTENCES[code]})" if code in SENTENCES else code for code in codes)


def known_codes(*texts: str) -> frozenset[str]:
    """Codes from comma-separated lists.

    Raises:
        UsageError: a code is unknown, or there is none.
    """
    codes = {code.strip() for text in texts for code in text.split(",")} - {""}
    unknown = sorted(codes.difference(CODES))
    if unknown or not codes:
        raise UsageError(
            f"unknown warning {unknown[0]!r}" if unknown else "no warning is named",
            fix=f"Choose among {', '.join(CODES)}.",
        )
    return frozenset(codes)


def check_refused(warnings: Iterable[str], refused: Collection[str]) -> None:
    """Refuse an image that has one of some warnings.

    Args:
        warnings: codes of the image.
        refused: codes that the user does not accept.

    Raises:
        ImageError: a warning is among `refused`. The text gives its code.
    """
    found = [code for code in warnings if code in refused]
    if found:
        raise ImageError(
            "the image is refused",
            why=described(found),
            fix="Leave the code out of --refuse to get a prediction with a warning.",
        )
