"""The parts of an evaluation's page, in the order of a reader's questions: how well, how sure, where, against what."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from lrclr.evaluation import _figures as figures
from lrclr.evaluation._html_markup import (
    GUESS,
    NONE,
    Markup,
    cell,
    facts,
    model,
    notes,
    number,
    row,
    signed,
    table,
    tag,
)
from lrclr.evaluation._markdown import COMPARED, INTERVALS, calibration_rows, refusals

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrclr.evaluation._compare import Comparison, Difference
    from lrclr.evaluation._result import Evaluation, Example, FindingQuality, Grounding

__all__ = ["ORIGINS", "Section", "sections"]

ORIGINS: Final = {"model": "the model’s own", "given": "as given", "validation": "best on validation"}
_KINDS: Final = {"best": "Found", "missed": "Missed", "false alarm": "False alarm"}
_FIGURES: Final[dict[str, str]] = {"auroc": "AUROC", "pointing": "Pointing game"}
_UNTRAINED: Final = "The fusion head was never trained: local scores and region attention mean nothing; not judged."


@dataclass(frozen=True)
class Section:
    """A part of the page: what links call it, its heading, what it holds."""

    key: str
    title: str
    parts: tuple[Markup, ...]


def sections(evaluation: Evaluation, comparison: Comparison | None, examples: Sequence[Example]) -> list[Section]:
    """Those that have something to say, in order."""
    trained = bool(evaluation.model.get("fusion_trained", True))
    every = (
        _recognition(evaluation, trained=trained),
        _decisions(evaluation),
        _calibration(evaluation),
        _alpha(evaluation),
        _grounding(evaluation.grounding),
        _against(comparison),
        _published(evaluation),
        _pictures(examples, trained=trained),
        _settings(evaluation),
    )
    return [section for section in every if section is not None]


def _recognition(evaluation: Evaluation, *, trained: bool) -> Section:
    heads = ("Finding", "With", "Without", "Left out", "AUROC", "AUROC, global", "AUROC, local", "Average precision")
    rows = []
    for each in evaluation.findings:
        cells = (str(each.positives), str(each.negatives), str(each.left_out))
        if each.undefined:
            rows.append(row(each.name, *cells, tag("td", f"not defined: {each.undefined}", class_="why", colspan="4")))
        else:
            areas = (cell(area, guess=0.5) for area in (each.auroc, each.auroc_global, each.auroc_local))
            rows.append(row(each.name, *cells, *areas, cell(each.average_precision)))
    mean = evaluation.mean
    last = map(cell, (mean.auroc, mean.auroc_global, mean.auroc_local, mean.average_precision))
    rows.append(row(f"Mean of {mean.findings}", "", "", "", *last, class_="mean"))
    resampled = evaluation.settings.get("resampled", "images")
    skipped = evaluation.settings.get("resamples_without_a_class") or {}
    small = [
        "Under a figure: its 95 % interval. Left out: images in which the finding is uncertain or not stated.",
        f"{GUESS} The interval holds 0.5, which is what guessing gives." if any(GUESS in each for each in rows) else "",
        "" if trained else _UNTRAINED,
    ]
    beside = [
        "The figures of the table. Two scores whose intervals overlap may still differ: they are of the same images.",
        INTERVALS,
        f"Bootstrap: {evaluation.settings.get('resamples', 0)} resamples of {resampled}.",
        f"Resamples without an image of either class, skipped: {_listed(skipped)}." if skipped else "",
    ]
    chart = Markup(figures.auroc_by_finding(evaluation.findings, mean, "auroc"))
    parts = [table(heads, rows), notes(small), tag("h3", "Global and local score")]
    parts += [tag("div", tag("figure", chart), notes(beside), class_="beside")]
    curves = [
        _captioned(each, figures.roc_curve(each, f"roc-{place}"))
        for place, each in enumerate(evaluation.findings)
        if each.roc and not each.undefined
    ]
    ringed = any(each.threshold is not None for each in evaluation.findings)
    if curves:
        ring = " The ring marks the threshold chosen on validation." if ringed else ""
        text = tag("p", f"Dashed: guessing.{ring}", class_="notes")
        parts += [tag("h3", "ROC curves"), text, tag("div", *curves, class_="small")]
    return Section("recognition", "Recognition", tuple(parts))


def _decisions(evaluation: Evaluation) -> Section | None:
    if all(each.threshold is None for each in evaluation.findings):
        return None
    rows = [
        row(each.name, number(each.threshold, 4), *map(cell, (each.f1, each.sensitivity, each.specificity)))
        for each in evaluation.findings
    ]
    rows.append(row("Mean", "", cell(evaluation.mean.f1), "", "", class_="mean"))
    criterion = {"f1": "F1", "mcc": "MCC", "youden": "Youden’s index"}.get(
        str(evaluation.settings.get("threshold")), str(evaluation.settings.get("threshold", "its criterion"))
    )
    text = f"A finding is called from this probability on. Thresholds maximise {criterion} on validation images."
    heads = ("Finding", "Threshold", "F1", "Sensitivity", "Specificity")
    return Section("decisions", "Decisions", (tag("p", text), table(heads, rows)))


def _calibration(evaluation: Evaluation) -> Section | None:
    shown = [each for each in evaluation.findings if each.calibration_error is not None or each.reliability]
    if not shown:
        return None
    fitted = any(each.calibration_error_scaled is not None for each in shown)
    heads = ["Finding", "Calibration error", *(["As fitted"] if fitted else [])]
    rows = [
        row(e.name, *map(number, (e.calibration_error, e.calibration_error_scaled)[: len(heads) - 1])) for e in shown
    ]
    text = "How far a probability is from the share of images that do have the finding; 0 is best (15 bins). "
    if fitted:
        text += "A scale and a bias were fitted on validation images; the diagrams are drawn with them."
    elif not evaluation.not_calibrated:
        text += "No calibration was fitted: there are no validation images."
    diagrams = [
        _captioned(each, figures.reliability_diagram(each, f"reliability-{place}"))
        for place, each in enumerate(shown)
        if each.reliability
    ]
    parts = [tag("p", text), table(heads, rows, slim=True)]
    if fitted:
        parts.append(
            table(("Finding", "Scale", "Bias"), [row(*each) for each in calibration_rows(evaluation)], slim=True)
        )
    parts.append(notes([f"Not fitted: {each}." for each in refusals(evaluation)]))
    if diagrams:
        bins = [
            row(each.name, number(mean), number(share), str(count))
            for each in shown
            for mean, share, count in each.reliability
        ]
        numbers = table(("Finding", "Mean probability", "Share with it", "Images"), bins, slim=True)
        parts += [tag("h3", "Reliability"), tag("div", *diagrams, class_="small")]
        parts.append(tag("details", tag("summary", "The diagrams’ numbers"), numbers))
    return Section("calibration", "Calibration", tuple(parts))


def _alpha(evaluation: Evaluation) -> Section | None:
    if len(evaluation.alpha_sweep) < 2:
        return None
    chart = Markup(figures.alpha_sweep(evaluation.alpha_sweep, evaluation.alpha, "alpha-sweep"))
    rows = [row(f"{alpha:.3g}", number(area, 4)) for alpha, area in sorted(evaluation.alpha_sweep)]
    origin = ORIGINS.get(evaluation.alpha_from, evaluation.alpha_from)
    text = tag("p", f"In effect: alpha = {evaluation.alpha:.3g}, {origin}. The curve is of validation images only.")
    numbers = tag("details", tag("summary", "The curve’s numbers"), table(("alpha", "Mean AUROC"), rows, slim=True))
    beside = tag("div", tag("figure", chart), tag("div", text, numbers), class_="beside")
    return Section("alpha", "Weight of the local score", (beside,))


def _grounding(grounding: Sequence[Grounding]) -> Section | None:
    if not grounding:
        return None
    rows = []
    for each in grounding:
        cells = [cell(each.pointing), cell(each.pointing_rollout), number(each.pointing_chance)]
        cells += [cell(each.hit_rate), number(each.hit_rate_chance)]
        cells += [cell(each.mass), cell(each.mass_rollout), number(each.mass_chance)]
        name, style = ("Mean", "mean") if each.name == "mean" else (each.name, "")
        rows.append(row(name, str(each.images), *cells, class_=style))
    what = ("Attention", "Rollout", "Chance")
    heads = ("Finding", "Images", *what, "Regions", "Chance", *what)
    groups = (("", 2), ("Pointing game", 3), ("Hit rate", 2), ("Attention inside the mask", 3))
    text = (
        "Does region attention lie where the finding is? Beside it stand attention rollout, which sees the image but "
    )
    text += "knows of no finding, and chance. Attention that is no better than rollout does not look for the finding."
    small = [
        "Pointing game: share of images in which the strongest patch touches the mask.",
        "Hit rate: share of images in which at least one selected region touches it.",
        "Attention inside: share of the attention that lies within the mask.",
    ]
    charts: tuple[tuple[str, Literal["pointing", "mass"]], ...]
    charts = (("Pointing game", "pointing"), ("Attention inside the mask", "mass"))
    drawn = (
        tag("figure", tag("figcaption", tag("b", title)), Markup(figures.grounding_bars(grounding, key, f"bars-{key}")))
        for title, key in charts
    )
    parts = (tag("p", text), table(heads, rows, groups=groups), notes(small), tag("div", *drawn, class_="pair"))
    return Section("grounding", "Grounding", parts)


def _against(comparison: Comparison | None) -> Section | None:
    if comparison is None or not comparison.differences:
        return None
    kinds = [kind for kind in _FIGURES if any(each.figure == kind for each in comparison.differences)]
    by_name: dict[str, dict[str, Difference]] = {}
    for each in comparison.differences:
        by_name.setdefault(each.name, {})[each.figure] = each
    # The mean last: findings that have no mask come before it only in the AUROCs.
    rows = []
    for name in sorted(by_name, key=lambda each: each == "mean"):
        cells: list[str] = []
        for kind in kinds:
            one = by_name[name].get(kind)
            if one is None:
                cells += [NONE] * 5
            else:
                told = one.verdict in ("higher", "lower")
                cells += [str(one.images), number(one.value), number(one.against), signed(one.difference, bold=told)]
                cells.append(number(one.p_family))
        rows.append(row(*(("Mean", *cells) if name == "mean" else (name, *cells)), class_="mean" * (name == "mean")))
    other = comparison.against
    alpha = f", alpha {other['alpha']:.3g}" if "alpha" in other else ""
    text = (model(other), f", {other.get('precision', '')}, {other.get('engine', '')}{alpha}, ")
    ending = f"on the same {comparison.images:,} images."
    small = notes(["Difference: this model less the other. Bold: p is below 0.05, a difference is shown.", COMPARED])
    heads = ("Finding", *("Images", "This", "Other", "Difference", "p, Holm") * len(kinds))
    groups = (("", 1), *((_FIGURES[kind], 5) for kind in kinds))
    parts = (tag("p", "The other: ", *text, ending), table(heads, rows, groups=groups), small)
    return Section("comparison", "Against another model", parts)


def _published(evaluation: Evaluation) -> Section | None:
    published: dict[str, Any] = evaluation.settings.get("published") or {}
    areas = {each.name: each.auroc for each in evaluation.findings}
    rows = [row(n, cell(areas[n]), number(area)) for n, area in published.get("auroc", {}).items() if n in areas]
    if not rows:
        return None
    heads = ("Finding", "AUROC here", "AUROC published")
    parts = (tag("p", f"{published.get('source', '')}."), table(heads, rows, slim=True))
    return Section("published", "Beside published figures", parts)


def _pictures(examples: Sequence[Example], *, trained: bool) -> Section | None:
    if not examples:
        return None
    tint = "region attention, the strongest at full strength, with its share" if trained else "importance"
    text = "Found and missed have the finding, and are its most and its least probable images; false alarms are the "
    text += f"most probable without it. Left the radiograph, right the selected regions tinted by {tint}. "
    text += "Yellow outlines the mask or the boxes of the finding."
    parts = [tag("p", text), tag("p", tag("b", "These are images of the data set: share this page as you would them."))]
    for finding in dict.fromkeys(each.finding for each in examples):
        parts.append(tag("h3", finding))
        own = [each for each in examples if each.finding == finding]
        for kind in dict.fromkeys(each.kind for each in own):
            cards = [_card(each) for each in own if each.kind == kind]
            parts.append(tag("div", *cards, class_="pictures"))
    return Section("pictures", "Pictures", tuple(parts))


def _card(example: Example) -> Markup:
    kind, probability = _KINDS.get(example.kind, example.kind), f"{100 * example.probability:.1f} %"
    source = f"data:image/png;base64,{base64.b64encode(example.picture).decode()}"
    picture = tag("img", src=source, alt=f"{example.finding}: {kind.lower()}, probability {probability}")
    return tag("figure", picture, tag("figcaption", tag("b", kind), tag("span", f"probability {probability}")))


def _settings(evaluation: Evaluation) -> Section:
    settings = {key: value for key, value in evaluation.settings.items() if key != "published"}
    lists = (
        facts("Model", evaluation.model),
        facts("Data", evaluation.data),
        facts("Settings", settings),
        facts("Environment", evaluation.environment),
    )
    return Section("settings", "Settings and environment", (tag("div", *lists, class_="facts"),))


def _captioned(finding: FindingQuality, picture: str) -> Markup:
    counts = f"{finding.positives} with, {finding.negatives} without"
    return tag("figure", tag("figcaption", tag("b", finding.name), counts), Markup(picture))


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())
