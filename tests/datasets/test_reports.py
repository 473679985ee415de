"""Sections of reports. All texts are made up."""

from __future__ import annotations

import time

import pytest

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
        ("PORTABLE CHEST\n\nHeart is large.\n\nLungs are\nclear.\n\n", "Lungs are clear.", "last paragraph"),
        ("IMPRESSION: One.\r\nFINDINGS: Two.\r\n", "One.", "impression"),
    ],
)
def test_what_stands_in_is_said(report: str, text: str, section: str) -> None:
    assert chosen(report) == (text, section)


def test_nothing_to_choose() -> None:
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
def test_marks_of_openi(marked: str, clean: str) -> None:
    assert without_xs(marked) == clean


@pytest.mark.parametrize("piece", ["X", "XXXX", ".", ". ", "___ ", "IMPRESSION", "A ", "\t", "A:\n", "\n \n", "a-"])
def test_hostile_reports_take_no_time(piece: str) -> None:
    report = (piece * 2**20)[: 2**20]
    begun = time.perf_counter()
    chosen(report)
    without_xs(report)
    without_underscores(report)
    assert time.perf_counter() - begun < 10
