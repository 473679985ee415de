"""Texts and rows of an evaluation that the reports and the terminal share."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from lrclr.evaluation._delong import LEAST_UNITS
from lrclr.evaluation._platt import LEAST_IMAGES
from lrclr.reports import Estimate, fixed, spanned

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from lrclr.evaluation._result import Evaluation
    from lrclr.evaluation._scores import Scores
    from lrclr.evaluation._select import Selection

ORIGINS: Final = {"model": "the model’s own", "given": "as given", "validation": "best on validation"}
COMPARED: Final = (
    "Each interval is a 95 % interval for its row alone. p is corrected by Holm for the number of rows: if the models "
    "do not differ, any row has p below 0.05 in at most 5 % of comparisons. No difference shown does not mean equal: "
    "the interval gives the differences that are still possible."
)
INTERVALS: Final = (
    "Those of AUROCs are the wider of DeLong's for patients and Newcombe's score interval, and hold with few "
    "positives. All others are bootstrap percentiles, which are too narrow with few positives; none is given if all "
    "resamples agree. A finding has no interval and no test if the images with it, or those without it, are of fewer "
    f"than {LEAST_UNITS} patients (or images, if patients are not given); the mean AUROC then counts it as from 0 to "
    "1, and other means have no interval."
)


def shown(figure: Estimate | float | None, digits: int = 3) -> str:
    """A figure with its interval, if it has one."""
    if isinstance(figure, Estimate):
        return spanned(figure, partial(fixed, digits=digits))
    return fixed(figure, digits)


def people(data: Mapping[str, Any]) -> str:
    """Numbers of images and patients."""
    patients = "patients not given" if data["patients"] is None else f"{data['patients']:,} patients"
    return f"{data['images']:,} images{',' if data['patients'] is None else ' of'} {patients}"


def calibration_rows(evaluation: Evaluation) -> list[tuple[str, str, str]]:
    """Name, scale and bias of each fit."""
    rows = [(name, f"{scale:g}", f"{bias:g}") for name, (scale, bias) in evaluation.finding_calibration.items()]
    if evaluation.score_scale is not None and evaluation.score_bias is not None:
        rows.append(("every other labelled finding", f"{evaluation.score_scale:g}", f"{evaluation.score_bias:g}"))
    return rows


def refusals(evaluation: Evaluation) -> list[str]:
    """Reasons for what was not fitted."""
    return [f"{name or 'all findings together'}: {why}" for name, why in evaluation.not_calibrated.items()]


def published_rows(evaluation: Evaluation) -> list[tuple[str, Estimate, float]]:
    """Name, measured AUROC and published AUROC of the findings that have both."""
    areas = {each.name: each.auroc for each in evaluation.findings}
    published = (evaluation.settings.get("published") or {}).get("auroc", {})
    return [(name, areas[name], area) for name, area in published.items() if name in areas]


def notes_of(evaluation: Evaluation, scores: Scores, selection: Selection) -> Iterator[str]:
    """What a user has to know beside the figures: rows and findings that do not count, and what was not fitted."""
    if not evaluation.mean.findings:
        yield "no AUROC is defined: no finding has images with it and images without it"
    yield from _notes_of_rows(scores, selection)
    for each in evaluation.findings:
        if each.auroc.high is not None and each.auroc.high < 0.5:
            yield f"the AUROC of {each.name} is below 0.5: check that 1 means present and that no columns are swapped"
        if each.no_interval:
            yield f"{each.name}: no intervals and no tests: {each.no_interval}"
    for place in evaluation.grounding:
        if place.no_interval:
            yield f"location of {place.name}: no intervals and no tests: {place.no_interval}"
    for name, count in evaluation.settings["resamples_without_a_class"].items():
        yield f"{name}: {count} resamples lacked a class and were skipped"
    yield from _notes_of_fit(evaluation)


def _notes_of_rows(scores: Scores, selection: Selection) -> Iterator[str]:
    for problems, what in ((selection.problems, "of the dataset"), (selection.validation_problems, "to fit on")):
        if problems:
            yield f"{len(problems)} rows {what} were left out; line {problems[0].line}: {problems[0].text}"
    if selection.listed:
        yield "findings that `findings` does not list count as not stated; write 0 into their columns if absent"
    if selection.unused:
        yield f"rows of other splits are not used: {selection.unused}"
    for name, count in selection.unlabelled_places.items():
        yield f"{count} rows have a mask or box of {name} and no label of it: it does not count there"
    for name, count in selection.uncertain_places.items():
        yield f"{count} rows have a mask or box of {name}, which is uncertain there: it does not count there"
    copies = len(scores) - len(set(scores.image.tolist()))
    if copies:
        yield f"{copies} images are copies of another image of the dataset, under another name"
    if selection.not_asked:
        names = [name + (f" (did you mean {near}?)" if near else "") for name, near in selection.not_asked.items()]
        yield f"not among the model's findings, and not judged: {', '.join(names)}"
    if selection.not_labelled:
        yield f"the dataset has no labels of {', '.join(selection.not_labelled)}"


def _notes_of_fit(evaluation: Evaluation) -> Iterator[str]:
    if not evaluation.model["fusion_trained"]:
        yield "the fusion head is not trained: alpha = 0, and region attention has no meaning"
    if "validation" not in evaluation.data:
        yield "there are no validation images: no threshold and no calibration were fitted"
        return
    if evaluation.alpha_from == "validation":
        yield f"fitted on validation: alpha {evaluation.alpha:g}"
    elif evaluation.alpha_from == "model" and evaluation.model["fusion_trained"]:
        yield f"not fitted: alpha: no finding has {LEAST_IMAGES} validation images with it and {LEAST_IMAGES} without"
    for name, scale, bias in calibration_rows(evaluation):
        yield f"fitted on validation, {name}: scale {scale}, bias {bias}"
    for text in refusals(evaluation):
        yield f"not fitted: {text}"
    if evaluation.calibration_kept:
        changed = evaluation.alpha_from == "validation" and evaluation.alpha != evaluation.model["alpha"]
        other = f", which belong to alpha {evaluation.model['alpha']:g}" if changed else ""
        yield f"the earlier scale and bias stay{other}: {', '.join(evaluation.calibration_kept)}"
