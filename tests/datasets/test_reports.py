"""Sections of reports. All texts are invented."""

from __future__ import annotations

import time

import pytest

# Private: the rules for the sections of a report, one by one.
from lrclr.datasets._reports import choose_section, mimic_sections, without_underscores, without_xs

MIMIC = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___ year old woman with cough  // ?pneumonia

 TECHNIQUE:  Chest PA and lateral

 FINDINGS: 

 There is no focal consolidation.
 Comparison to ___: unchanged heart.

 IMPRESSION: 

 1. Small left effusion,
 seen by Dr. ___ .
 2. No edema.

 RECOMMENDATION(S):  Follow up in ___ weeks.
"""  # noqa: W291
IMPRESSION = "1. Small left effusion, seen by Dr. 2. No edema."
FINDINGS = "There is no focal consolidation. Comparison to: unchanged heart."


def chosen(report: str, section: str = "impression") -> tuple[str, str] | None:
    return choose_section(mimic_sections(report), section)  # type: ignore[arg-type]


def test_sections_of_a_mimic_report() -> None:
    assert chosen(MIMIC) == (IMPRESSION, "impression")
    assert chosen(MIMIC, "findings") == (FINDINGS, "findings")
    assert chosen(MIMIC, "both") == (f"{FINDINGS} {IMPRESSION}", "findings and impression")


@pytest.mark.parametrize(
    ("report", "text", "section"),
    [
        ("Impression: All clear.\n", "All clear.", "impression"),
        ("impression:\n  all\n\n  clear", "all clear", "impression"),
        ("FINDINGS: Old.\nIMPRESSION\nAll clear.", "All clear.", "impression"),
        ("FINDINGS AND IMPRESSION: One.", "One.", "impression"),
        ("FINDINGS: Heart is large.\nIMPRESSION: ___\n", "Heart is large.", "findings"),
        ("FINDINGS: Heart is large.\n", "Heart is large.", "findings"),
        ("IMPRESSION: First.\nADDENDUM: x\nIMPRESSION: Second.\n", "Second.", "impression"),
        ("IMPRESSION: First.\nNOTIFICATION: by phone", "First.", "impression"),
        ("My impression: none.\nIMPRESSION: Mild edema: stable.\n", "Mild edema: stable.", "impression"),
        (
            "PORTABLE CHEST\n\nHeart is large.\n\nLungs are\nclear.\n\n",
            "Heart is large. Lungs are clear.",
            "free paragraphs",
        ),
        ("IMPRESSION:\nFINDINGS: Heart is large.\n", "Heart is large.", "findings"),
        ("CHEST, 2 VIEWS: Heart is large.\n", "Heart is large.", "findings"),
        ("INDICATION FOR CHEST: Cough.\nFINDINGS: Heart is large.\n", "Heart is large.", "findings"),
        ("IMPRESSION: Loss of height of\nL4: compression.\n", "Loss of height of L4: compression.", "impression"),
        ("IMPRESSION: One.\r\nFINDINGS: Two.\r\n", "One.", "impression"),
    ],
)
def test_the_chosen_section_is_named(report: str, text: str, section: str) -> None:
    assert chosen(report) == (text, section)


FINAL = "                                 FINAL REPORT\n"
LARGE = "The heart is large.\n There is a small left effusion."
IS_LARGE = "The heart is large. There is a small left effusion."
NOTIFIED = " \n Dr. ___ was notified by telephone at 9 a.m.\n"
WAS_NOTIFIED = "Dr. was notified by telephone at 9 a.m."


@pytest.mark.parametrize(
    ("report", "text"),
    [
        (
            f" EXAM:  CHEST (PA AND LAT)\n \n FINDINGS: \n \n {LARGE}\n \n IMPRESSION: \n \n Mild edema.\n{NOTIFIED}",
            f"Mild edema. {WAS_NOTIFIED}",
        ),
        (f" REASON FOR EXAMINATION:  Cough.\n \n {LARGE}\n \n None.\n{NOTIFIED}", f"{IS_LARGE} None. {WAS_NOTIFIED}"),
        (f" REASON FOR EXAM:  ___-year-old with\n cough.\n \n {LARGE}\n{NOTIFIED}", f"{IS_LARGE} {WAS_NOTIFIED}"),
        (f" PORTABLE CHEST:  {LARGE}\n{NOTIFIED}", f"{IS_LARGE} {WAS_NOTIFIED}"),
        (f" CHEST, TWO VIEWS:  {LARGE}\n \n No edema.\n{NOTIFIED}", f"{IS_LARGE} No edema. {WAS_NOTIFIED}"),
        (f" CHEST, PA LATERAL:\n \n INDICATION:  Cough.\n \n FINDINGS:  {LARGE}\n", IS_LARGE),
        (f" CHEST, PA LATERAL:\n \n INDICATION:  Cough.\n \n {LARGE}\n{NOTIFIED}", f"{IS_LARGE} {WAS_NOTIFIED}"),
        (
            f" INDICATION:  Cough.\n \n IMPRESSION:\n AP CHEST:  {LARGE}\n{NOTIFIED}",
            f"AP CHEST: {IS_LARGE} {WAS_NOTIFIED}",
        ),
        (f" INDICATION:  Cough.\n \n IMPRESSION:  \n AP CHEST:  {LARGE}\n", IS_LARGE),
        (f" INDICATION:  Cough.\n \n IMPRESSION:\n \n PA AND LATERAL CHEST:  {LARGE}\n", IS_LARGE),
        (f" IMPRESSION:  AP CHEST:  {LARGE}\n", f"AP CHEST: {IS_LARGE}"),
        (f" HISTORY:  Fall.\n \n COMPARISON:  None.\n \n PA AND LATERAL VIEWS OF THE CHEST:  {LARGE}\n", IS_LARGE),
        (f" SINGLE FRONTAL VIEW:  {LARGE}\n \n COMPARISON:  ___.\n", IS_LARGE),
        (f" COMPARISON:  Made with prior radiographs.\n \n {LARGE}\n{NOTIFIED}", f"{IS_LARGE} {WAS_NOTIFIED}"),
        (f" INDICATION:  Fall.\n \n COMPARISON:  ___.  {LARGE}\n", IS_LARGE),
        (f" FINDINGS:  Old.\n \n CONCLUSION:  {LARGE}\n", IS_LARGE),
        (f" FINDINGS/IMPRESSION:  {LARGE}\n", IS_LARGE),
        (f" FINIDNGS:  Old.\n \n IMPRESSOIN:  {LARGE}\n", IS_LARGE),
        (f" IMPRESSION:  Old.\n \n ADDENDUM:  Read again.\n \n IMPRESSION:  {LARGE}\n", IS_LARGE),
        (f" IMPRESSION:  {LARGE}\n \n RECOMMENDATION(S):  Follow up.\n{NOTIFIED}", IS_LARGE),
        (f" WET READ:  ___ 9:10 AM\n  No edema.\n \n REASON FOR EXAMINATION:  Line.\n \n {LARGE}\n", IS_LARGE),
        (f" \n {LARGE}\n \n No edema.\n", f"{IS_LARGE} No edema."),
    ],
)
def test_mimic_sections_equal_those_of_the_published_rules(report: str, text: str) -> None:
    """Expected texts come from MIT-LCP's ``txt/section_parser.py`` for these reports, without underscores."""
    got = chosen(FINAL + report)
    assert got is not None
    assert got[0] == text


@pytest.mark.parametrize(
    "report",
    [
        f" REASON FOR EXAMINATION:  Cough, effusion.\n{NOTIFIED}",
        f" INDICATION:  Cough.\n \n NOTIFICATION:\n \n Discussed.\n{NOTIFIED}",
        " INDICATION:  Cough.\n \n These findings were discussed with Dr. ___ at 9 a.m.\n",
        f" RECOMMENDATION(S):  Follow up.\n{NOTIFIED}",
    ],
)
def test_a_notification_is_not_a_description(report: str) -> None:
    """The published rules would return these texts."""
    assert chosen(FINAL + report) is None


def test_text_before_a_notification_with_a_heading_is_found() -> None:
    report = f"{FINAL} REASON FOR EXAMINATION:  Cough.\n \n {LARGE}\n \n NOTIFICATION:\n \n Discussed.\n{NOTIFIED}"
    assert chosen(report) == (IS_LARGE, "free paragraphs")


def test_a_report_without_text_has_no_section() -> None:
    assert chosen("") is None
    assert chosen(" ___ \n\n ___ ") is None


@pytest.mark.parametrize(
    ("marked", "clean"),
    [
        ("Normal chest x-XXXX.", "Normal chest x-ray."),
        ("XXXX-year-old male, XXXX XXXX.", "male."),
        ("Heart size is XXXX. Lungs are clear.", "Heart size is. Lungs are clear."),
        ("XXXX. XXXX/XXXX, No edema", "No edema"),
        ("XXXX", ""),
        ("XX and X stay", "XX and X stay"),
    ],
)
def test_marks_of_openi_are_removed(marked: str, clean: str) -> None:
    assert without_xs(marked) == clean


@pytest.mark.parametrize("piece", ["X", "XXXX", ".", ". ", "___ ", "IMPRESSION", "A ", "\t", "A:\n", "\n \n", "a-"])
def test_long_repetitive_reports_are_parsed_in_seconds(piece: str) -> None:
    report = (piece * 2**20)[: 2**20]
    begun = time.process_time()
    chosen(report)
    without_xs(report)
    without_underscores(report)
    assert time.process_time() - begun < 10
