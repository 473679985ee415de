"""Sections of radiology reports, and removal of marks of the de-identification.

The sections of MIMIC-CXR follow the rules with which its authors divide the reports before labelling:
``txt/section_parser.py`` and ``txt/create_section_files.py`` in https://github.com/MIT-LCP/mimic-cxr.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

Section = Literal["impression", "findings", "both"]

# A heading in capitals, or a usual name in any case; the bounds keep matching linear.
_CAPITALS: Final = re.compile(
    r"^[ \t]{0,80}(?P<name>[A-Z][A-Z0-9 ,/&()'-]{2,60}?)[ \t]{0,20}"
    r"(?::(?=\s|\Z)|(?<=IMPRESSION)[ \t]*$|(?<=FINDINGS)[ \t]*$)",
    re.MULTILINE,
)
_ANY_CASE: Final = re.compile(
    r"^[ \t]{0,80}(?P<name>(?i:findings?|impressions?|conclusions?|indications?|comparisons?|techniques?|history"
    r"|examination|recommendations?|notification|addendum|wet read|clinical [a-z ]{1,40})(?i: and impressions?)?)"
    r"[ \t]{0,20}:",
    re.MULTILINE,
)
# A heading that describes the study instead of naming a section. Its text is the findings.
_STUDY: Final = re.compile(
    r"chest|portable|(?:pa|ap|lateral) and (?:pa|ap|lat)|frontal (?:and|view|upright|semi-upright)|bone window|ribs"
    r"|(?:pa|ap|one|lateral) view|(?:two|2) views"
)
# The first of these words in a heading decides its section.
_WORDS: Final = (
    *(("reason for", "indication"), ("indication", "indication"), ("technique", "technique")),
    *(("impression", "impression"), ("conclusion", "impression"), ("finding", "findings"), ("history", "history")),
    *(("pfi", "history"), ("comparison", "comparison"), ("addendum", "addendum"), ("recommendation", "notification")),
    *(("notification", "notification"), ("wet read", "wet read"), ("wetread", "wet read")),
)
_SPELT: Final = ("impression", "findings", "comparison", "indication")
_SIMILAR: Final = 0.8
# A paragraph about the notification of a person: "Dr. ___ was notified by telephone."
_NOTICE: Final = re.compile(
    r"(?i)(?:(?:these|the|above|critical|important) ){0,2}(?:(?:findings?|results?) (?:was|were|have been) "
    r"(?:discussed|communicated|conveyed|reported|telephoned|called|paged)\b"
    r"|(?:dr|nurse|physician|(?:primary |surgical |clinical |referring )?(?:team|service|physician|clinician))\b"
    r".{0,60}\b(?:notified|informed|paged|called|aware)\b)"
)
_BLANK_LINE: Final = re.compile(r"\n[ \t\r]*\n")
_MARK: Final = "XXX"
_TWICE: Final = re.compile(r"[.,;:](?:\s*[.,;:])+")
_BEFORE: Final = re.compile(r"\s+(?=[.,;:)])")
_FREE, _UNDER_COMPARISON = "free paragraphs", "text under COMPARISON"


class SectionText(NamedTuple):
    """A text and the section it is from."""

    text: str
    section: str


def mimic_sections(report: str) -> dict[str, str]:
    """The sections of a MIMIC-CXR report that describe the images.

    A heading is at the beginning of a line, in capitals, before a colon. Headings that describe the study, such as
    ``PORTABLE CHEST:`` or ``CHEST, TWO VIEWS:``, count as ``FINDINGS:``; on the line after a heading without text they
    belong to that section's text. If a section occurs twice, the last one with text counts. In a report with neither
    findings nor impression, the description is what follows the first paragraph of its last section, for example
    after ``REASON FOR EXAMINATION:``; or else the text under ``COMPARISON:``. Notifications and recommendations are
    not descriptions, with or without a heading.

    Beyond the published rules, usual headings in lower case count if none in capitals names findings or an impression,
    and headings may contain digits and lack the indentation.

    Returns:
        ``impression`` and ``findings``, if the report has them; otherwise ``free paragraphs`` or
        ``text under COMPARISON``, or nothing.
    """
    report = report.replace("\r\n", "\n")
    for pattern in (_CAPITALS, _ANY_CASE):
        parts = _parts(report, pattern)
        found = {name: text for name, part in parts if (text := without_underscores(part))}
        described = {name: text for name, text in found.items() if name in ("impression", "findings")}
        if described:
            return described
    parts = [part for part in _parts(report, _CAPITALS) if part[0] != "notification"]
    free = _BLANK_LINE.split(parts[-1][1], maxsplit=1) if parts else []
    if len(free) > 1 and (text := without_underscores(free[1])) and not _NOTICE.match(text):
        return {_FREE: text}
    compared = [text for name, part in parts if name == "comparison" and (text := without_underscores(part))]
    return {_UNDER_COMPARISON: compared[-1]} if compared else {}


def _parts(report: str, pattern: re.Pattern[str]) -> list[tuple[str, str]]:
    """Section name and text of each part of a report, in order; "" is the part before the first heading."""
    parts = []
    name, start, bare = "", 0, False
    for heading in pattern.finditer(report):
        kind = _kind(heading["name"])
        # A description of the study right after "IMPRESSION:" begins that section's text.
        begins_text = bare and heading.start() == start + 1 and kind in ("study", "other")
        bare = False
        if kind and not begins_text:
            parts.append((name, report[start : heading.start()]))
            name, start = "findings" if kind == "study" else kind, heading.end()
            bare = report.startswith("\n", start)
    parts.append((name, report[start:]))
    return parts


def _kind(heading: str) -> str:
    """The section of a heading; "" if the text is not a heading."""
    text = " ".join(heading.lower().split())
    for word, section in _WORDS:
        if word in text:
            return section
    if _STUDY.search(text):
        return "study"
    if text.startswith(("exam", "type of exam")):
        return "examination"
    if text.isalpha() and 6 <= len(text) <= 14:
        # The published reports contain "IMPRESSOIN" and "FINIDNGS".
        near = difflib.get_close_matches(text, _SPELT, n=1, cutoff=_SIMILAR)
        if near:
            return near[0]
    # "L4: compression" does not begin a section.
    return "" if any(character.isdigit() for character in text) else "other"


def choose_section(sections: Mapping[str, str], section: Section) -> SectionText | None:
    """The text of a section, or of the best other one; ``None`` if there is none.

    ``impression`` falls back to the findings, ``findings`` to the impression, and both to the text that
    `mimic_sections` finds without headings.
    """
    if section == "both":
        texts = [sections[name] for name in ("findings", "impression") if name in sections]
        if texts:
            names = [name for name in ("findings", "impression") if name in sections]
            return SectionText(" ".join(dict.fromkeys(texts)), " and ".join(names))
    order = ("findings", "impression") if section == "findings" else ("impression", "findings")
    for name in (*order, _FREE, _UNDER_COMPARISON):
        if name in sections:
            return SectionText(sections[name], name)
    return None


def without_underscores(text: str) -> str:
    """The text in one line, without MIMIC's ``___``."""
    return _tidy(re.sub(r"_{2,}", " ", text))


def without_xs(text: str) -> str:
    """The text in one line, without words that contain Open-i's ``XXXX``; "x-XXXX" becomes "x-ray"."""
    words = (
        word[len(word.rstrip(".,;:)")) :] if _MARK in word else word
        for word in re.sub(r"(?i:\bx-)XXXX", "x-ray", text).split()
    )
    return _tidy(" ".join(words))


def _tidy(text: str) -> str:
    joined = _BEFORE.sub("", " ".join(text.split()))
    return _TWICE.sub(lambda match: "." if "." in match[0] else match[0][-1], joined).lstrip(".,;:) ").strip()
