"""Input checks: warnings that an image is probably not what the model is for. They never change an answer.

Checks read DICOM attributes (`tag_warnings`) and pixels (`pixel_warnings`). `lrclr.images.read_for_model` runs them, so
every command warns of the same images. docs/howto/input-checks.md gives false alarms and misses of each check.
"""

from __future__ import annotations

from lrclr.input_checks._codes import CODES, SENTENCES, check_refused, described, known_codes
from lrclr.input_checks._pixels import pixel_warnings
from lrclr.input_checks._tags import CHECKED_ATTRIBUTES, tag_warnings

__all__ = [
    "CHECKED_ATTRIBUTES",
    "CODES",
    "SENTENCES",
    "check_refused",
    "described",
    "known_codes",
    "pixel_warnings",
    "tag_warnings",
]
