"""Radiology reports: their sections, and the marks that de-identification left in them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Section", "SectionText", "choose_section", "mimic_sections", "without_underscores", "without_xs"]

Section = Literal["impression", "findings", "both"]

# "FINDINGS:" in capitals whatever it says, and the usual names in any case; the bounds keep matching linear.
_HEADER: Final = re.compile(
    r"^[ \t]{0,80}(?P<name>[A-Z][A-Z0-9 ,/&()'-]{2,60}?|(?i:findings?|impressions?|conclusions?|indications?"
    r"|comparisons?|techniques?|history|examination|recommendations?|notification|addendum|wet read"
    r"|clinical [a-z ]{1,40})(?i: and impressions?)?)[ \t]{0,20}(?::|(?<=IMPRESSION)[ \t]*$|(?<=FINDINGS)[ \t]*$)",
    re.MULTILINE,
)
_MARK: Final = "XXX"
_TWICE: Final = re.compile(r"[.,;:](?:\s*[.,;:])+")
_BEFORE: Final = re.compile(r"\s+(?=[.,;:)])")


class SectionText(NamedTuple):
    """A text, and the section that it was taken from."""

    text: str
    section: str


def mimic_sections(report: str) -> dict[str, str]:
    """The texts of a MIMIC-CXR report: ``impression`` and ``findings`` where they are, and ``last paragraph``.

    Of a section that stands there twice, as after an addendum, the last one with a text counts.
    """
    sections: dict[str, str] = {}
    headers = list(_HEADER.finditer(report))
    for number, header in enumerate(headers):
        end = headers[number + 1].start() if number + 1 < len(headers) else len(report)
        name = header["name"].lower()
        kind = "impression" if "impression" in name or "conclusion" in name else "findings" if "finding" in name else ""
        text = without_underscores(report[header.end() : end])
        if kind and text:
            sections[kind] = text
    paragraphs = [text for part in re.split(r"\n[ \t]*\n", report) if (text := without_underscores(part))]
    if paragraphs:
        sections["last paragraph"] = paragraphs[-1]
    return sections


def choose_section(sections: Mapping[str, str], section: Section) -> SectionText | None:
    """The wanted text, or the best that there is; ``None`` where there is none.

    ``impression`` falls back to the findings, ``findings`` to the impression, and everything to the last paragraph.
    """
    if section == "both":
        texts = [sections[name] for name in ("findings", "impression") if name in sections]
        if texts:
            names = [name for name in ("findings", "impression") if name in sections]
            return SectionText(" ".join(dict.fromkeys(texts)), " and ".join(names))
    order = ("findings", "impression") if section == "findings" else ("impression", "findings")
    for name in (*order, "last paragraph"):
        if name in sections:
            return SectionText(sections[name], name)
    return None


def without_underscores(text: str) -> str:
    """In one line, without MIMIC's ``___`` for what was taken out."""
    return _tidy(re.sub(r"_{2,}", " ", text))


def without_xs(text: str) -> str:
    """In one line, without Open-i's ``XXXX``, nor the words it is a part of; "x-XXXX" can only have been "x-ray"."""
    words = (
        word[len(word.rstrip(".,;:)")) :] if _MARK in word else word
        for word in re.sub(r"(?i:\bx-)XXXX", "x-ray", text).split()
    )
    return _tidy(" ".join(words))


def _tidy(text: str) -> str:
    joined = _BEFORE.sub("", " ".join(text.split()))
    return _TWICE.sub(lambda match: "." if "." in match[0] else match[0][-1], joined).lstrip(".,;:) ").strip()
