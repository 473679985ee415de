"""Coded concepts of findings and of what lrclr measures.

A finding gets a code of SNOMED CT or DICOM where one concept means what the finding means. All others get a code of
lrclr's own scheme, ``99LRCLR``. ``docs/hospital/results.md`` says which source each code was compared with.
"""

from __future__ import annotations

import hashlib
from typing import Final, NamedTuple

SCHEME: Final = "99LRCLR"
_MEANING_LENGTH: Final = 64  # of a value representation LO
ATTENTION_MEANING: Final = "Region attention"


class FindingCode(NamedTuple):
    """A coded concept (PS3.3, section 8).

    Attributes:
        value: at most 16 characters.
        scheme: ``SCT``, ``DCM`` or ``99LRCLR``.
        meaning: at most 64 characters.
    """

    value: str
    scheme: str
    meaning: str


# The names are those of CheXpert's labels.
FINDING_CODES: Final = {
    "Atelectasis": FindingCode("46621007", "SCT", "Atelectasis"),
    "Cardiomegaly": FindingCode("8186001", "SCT", "Cardiomegaly"),
    "Consolidation": FindingCode("95436008", "SCT", "Lung consolidation"),
    "Edema": FindingCode("19242006", "SCT", "Pulmonary edema"),
    "Enlarged Cardiomediastinum": FindingCode("ECM", SCHEME, "Enlarged cardiomediastinum"),
    "Fracture": FindingCode("125605004", "SCT", "Fracture of bone"),
    "Lung Lesion": FindingCode("LUNGLESION", SCHEME, "Lung lesion"),
    "Lung Opacity": FindingCode("112033", "DCM", "Abnormal opacity"),
    # Not "normal": the label says that none of the other findings was reported.
    "No Finding": FindingCode("NOFINDING", SCHEME, "No finding"),
    "Pleural Effusion": FindingCode("60046008", "SCT", "Pleural effusion"),
    "Pleural Other": FindingCode("PLEURALOTHER", SCHEME, "Other pleural abnormality"),
    "Pneumonia": FindingCode("233604007", "SCT", "Pneumonia"),
    "Pneumothorax": FindingCode("36118008", "SCT", "Pneumothorax"),
    "Support Devices": FindingCode("SUPPORTDEV", SCHEME, "Support devices"),
}
PROCEDURE: Final = FindingCode("399208008", "SCT", "Plain chest X-ray")
# Not "Certainty of Finding" (111012, DCM): the value was calibrated on other images, if at all.
PROBABILITY: Final = FindingCode("ZSPROBABILITY", SCHEME, "Zero-shot probability")
SPREAD: Final = FindingCode("ZSSPREAD", SCHEME, "Spread of the members' zero-shot probabilities")
IMPORTANCE: Final = FindingCode("IMPORTANCE", SCHEME, "Region importance (attention rollout)")
REGION: Final = FindingCode("REGION", SCHEME, "Region selected by attention")


def finding_code(name: str) -> FindingCode:
    """The concept of a finding; for a finding that is not in `FINDING_CODES`, one that follows from its name."""
    known = FINDING_CODES.get(name)
    return known or FindingCode(f"F-{_digest(name)}", SCHEME, plain_meaning(name))


def attention_code(name: str) -> FindingCode:
    """The concept of a finding's attention on a region."""
    return FindingCode(f"RA-{_digest(name)}", SCHEME, plain_meaning(f"{ATTENTION_MEANING}, {name}"))


def plain_meaning(text: str) -> str:
    """A text as a value of VR LO: one line, without a backslash, of at most 64 characters."""
    line = "".join(each if each.isprintable() and each != "\\" else " " for each in text)
    return " ".join(line.split())[:_MEANING_LENGTH].strip() or "unnamed"


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:12].upper()
