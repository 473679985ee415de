"""Writes a report on a case: every finding with side or lobe and size, and some absent findings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.phantom.cases import FINDINGS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

    from benchmarks.phantom.cases import Case, Item

__all__ = ["stated", "write_report"]

_SIZE_WORDS: Mapping[str, Sequence[str]] = {
    "small": ("small", "mild", "minor"),
    "moderate": ("moderate", "moderately sized", "medium sized"),
    "large": ("large", "extensive", "marked"),
}
_SIZED: Mapping[str, Mapping[str, Sequence[str]]] = {
    "Cardiomegaly": {
        "small": ("mildly", "slightly"),
        "moderate": ("moderately", "clearly"),
        "large": ("severely", "markedly"),
    },
}
_LOBES = ("left upper lobe", "left lower lobe", "right upper lobe", "right middle lobe", "right lower lobe")
_PRESENT: Mapping[str, Sequence[str]] = {
    "Pleural Effusion": (
        "{Size} {side} pleural effusion.",
        "There is a {size} pleural effusion on the {side}.",
        "A {size} {side} pleural effusion layers at the base.",
        "Blunting of the {side} costophrenic angle, in keeping with a {size} pleural effusion.",
        "{Side} sided pleural fluid, {size} in amount.",
    ),
    "Consolidation": (
        "{Size} consolidation in the {lobe}.",
        "There is {size} airspace consolidation of the {lobe}.",
        "The {lobe} is consolidated, {size} in extent.",
        "{Size} {lobe} consolidation, which may be pneumonia.",
        "Airspace opacity in the {lobe} is a {size} consolidation.",
    ),
    "Atelectasis": (
        "{Size} atelectasis of the {lobe}.",
        "Volume loss in the {lobe} with {size} atelectasis.",
        "The {lobe} is atelectatic, with {size} loss of volume.",
        "{Size} collapse of the {lobe}.",
        "Increased density and a raised {side} hemidiaphragm: {size} {lobe} atelectasis.",
    ),
    "Cardiomegaly": (
        "The heart is {size} enlarged.",
        "{Size} enlarged cardiac silhouette.",
        "Cardiomegaly; the heart is {size} widened.",
        "The cardiac silhouette is {size} enlarged.",
        "There is cardiomegaly, {size} above the normal width.",
    ),
    "Pneumothorax": (
        "{Size} {side} pneumothorax.",
        "There is a {size} apical pneumothorax on the {side}.",
        "A pleural line is seen at the {side} apex: {size} pneumothorax.",
        "{Side} sided pneumothorax, {size}.",
        "Free air over the {side} lung, a {size} pneumothorax.",
    ),
    "Lung Lesion": (
        "{Size} nodule in the {lobe}.",
        "There is a {size} round lesion in the {lobe}.",
        "A {size} nodular opacity projects over the {lobe}.",
        "{Size} well defined lung lesion on the {side}, in the {lobe}.",
        "Solitary {size} lung nodule, {lobe}.",
    ),
    "Edema": (
        "{Size} pulmonary edema.",
        "Bilateral perihilar haze: {size} pulmonary edema.",
        "There is {size} edema in both lungs.",
        "Vascular congestion with {size} pulmonary edema.",
        "Central opacities on both sides, consistent with {size} edema.",
    ),
}
_BOTH_SIDES = (
    "Bilateral pleural effusions, {right} on the right and {left} on the left.",
    "There are pleural effusions on both sides: {right} right, {left} left.",
    "Pleural fluid bilaterally, {left} on the left and {right} on the right.",
)
_ABSENT: Mapping[str, Sequence[str]] = {
    "Pleural Effusion": ("pleural effusion", "pleural fluid"),
    "Consolidation": ("consolidation", "focal consolidation", "airspace consolidation"),
    "Atelectasis": ("atelectasis", "lobar collapse"),
    "Cardiomegaly": ("cardiomegaly", "enlargement of the heart"),
    "Pneumothorax": ("pneumothorax",),
    "Lung Lesion": ("lung nodule", "nodule or mass", "lung lesion"),
    "Edema": ("pulmonary edema", "edema"),
}
_NEGATIONS = (
    "No {these}.",
    "There is no {these}.",
    "No evidence of {these}.",
    "No {these} is seen.",
    "Negative for {these}.",
    "Without {these}.",
)
_NORMAL_SIGNS: Mapping[str, Sequence[str]] = {
    "Cardiomegaly": ("Heart size is normal.", "The cardiac silhouette is of normal size.", "Normal heart size."),
    "Pleural Effusion": ("The costophrenic angles are sharp.", "Both costophrenic angles are clear."),
}
_NORMAL = (
    "No acute cardiopulmonary abnormality.",
    "Normal chest radiograph.",
    "The lungs are clear.",
    "Unremarkable chest.",
    "No acute cardiopulmonary process.",
    "Clear lungs and a normal heart.",
)


def write_report(case: Case, rng: np.random.Generator) -> str:
    """Write one paragraph on a case. It names every finding, and states no absent one as present."""
    positive = _positive(case, rng)
    order = rng.permutation(len(positive))
    sentences = [positive[int(at)] for at in order] or [_pick(_NORMAL, rng)]
    absent = [name for name in FINDINGS if name not in case.names]
    mentioned = [name for name in absent if rng.random() < 0.45]
    for name in tuple(mentioned):
        if name in _NORMAL_SIGNS and rng.random() < 0.5:
            mentioned.remove(name)
            sentences.append(_pick(_NORMAL_SIGNS[name], rng))
    while mentioned:
        count = int(rng.integers(1, 4))
        these = [_pick(_ABSENT[name], rng) for name in mentioned[:count]]
        mentioned = mentioned[count:]
        listed = " or ".join(filter(None, [", ".join(these[:-1]), these[-1]]))
        sentences.append(_pick(_NEGATIONS, rng).format(these=listed))
    return " ".join(sentences)


def _positive(case: Case, rng: np.random.Generator) -> list[str]:
    fluid = {item.side: item for item in case.items if item.name == "Pleural Effusion"}
    sentences = []
    if len(fluid) == 2:
        words = {side: _size(item, rng) for side, item in fluid.items()}
        sentences.append(_pick(_BOTH_SIDES, rng).format(**words))
    sentences += [
        _sentence(item, rng) for item in case.items if not (len(fluid) == 2 and item.name == "Pleural Effusion")
    ]
    return sentences


def stated(name: str) -> list[tuple[str, ...]]:
    """Sentences that state a finding in reports: for each form, one for each size and place, with small ones or not."""
    sizes = {size: words[0] for size, words in _SIZED.get(name, _SIZE_WORDS).items()}
    return [
        tuple(dict.fromkeys(_filled(form, sizes[size], lobe.split()[0], lobe) for size in some for lobe in _LOBES))
        for form in _PRESENT[name]
        for some in (("moderate", "large"), ("small", "moderate", "large"))
    ]


def _sentence(item: Item, rng: np.random.Generator) -> str:
    form, size = _pick(_PRESENT[item.name], rng), _size(item, rng)
    lobe = ""
    if item.lobe:
        _, part, _, side = item.lobe.split("_")
        lobe = f"{side} {part} lobe"
    return _filled(form, size, item.side, lobe)


def _filled(form: str, size: str, side: str, lobe: str) -> str:
    words = {"size": size, "Size": size.capitalize(), "side": side, "Side": side.capitalize(), "lobe": lobe}
    return form.format(**words).replace(" a extensive", " an extensive").replace("A extensive", "An extensive")


def _size(item: Item, rng: np.random.Generator) -> str:
    return _pick(_SIZED.get(item.name, _SIZE_WORDS)[item.size], rng)


def _pick(choices: Sequence[str], rng: np.random.Generator) -> str:
    return choices[int(rng.integers(len(choices)))]
