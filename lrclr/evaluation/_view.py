"""Texts and rows of an evaluation that the reports and the terminal share."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from lrclr.evaluation._platt import LEAST_IMAGES
from lrclr.reports import Estimate, fixed, spanned

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lrclr.evaluation._evaluate import EvaluationRun
    from lrclr.evaluation._result import Evaluation

ORIGINS: Final = {"model": "the model’s own", "given": "as given", "validation": "best on validation"}
COMPARED: Final = (
    "Each interval is a 95 % interval for its row alone. p is corrected by Holm for the number of rows: if the models "
    "do not differ, any row has p below 0.05 in at most 5 % of comparisons. No difference shown does not mean equal: "
    "the interval gives the differences that are still possible."
)
INTERVALS: Final = (
    "Those of AUROCs are the wider of DeLong's for patients and Newcombe's score interval, and hold with few "
    "positives. All others are bootstrap percentiles, which are too narrow with few positives; none is given if all "
    "resamples agree."
)


def shown(figure: Estimate | float | None, digits: int = 3) -> str:
    """A figure with its interval, if it has one."""
    if isinstance(figure, Estimate):
        return spanned(figure, partial(fixed, digits=digits))
    return fixed(figure, digits)


def calibration_rows(evaluation: Evaluation) -> list[tuple[str, str, str]]:
    """Name, scale and bias of each fit."""
    rows = [(name, f"{scale:g}", f"{bias:g}") for name, (scale, bias) in evaluation.finding_calibration.items()]
    if evaluation.score_scale is not None and evaluation.score_bias is not None:
        rows.append(("every other", f"{evaluation.score_scale:g}", f"{evaluation.score_bias:g}"))
    return rows


def refusals(evaluation: Evaluation) -> list[str]:
    """Reasons for what was not fitted."""
    return [f"{name or 'all findings together'}: {why}" for name, why in evaluation.not_calibrated.items()]


def published_rows(evaluation: Evaluation) -> list[tuple[str, Estimate, float]]:
    """Name, measured AUROC and published AUROC of the findings that have both."""
    areas = {each.name: each.auroc for each in evaluation.findings}
    published = (evaluation.settings.get("published") or {}).get("auroc", {})
    return [(name, areas[name], area) for name, area in published.items() if name in areas]


def notes_of(run: EvaluationRun) -> Iterator[str]:
    """What a user has to know beside the figures: rows and findings that do not count, and what was not fitted."""
    evaluation, selection = run.evaluation, run.selection
    if selection.problems:
        first = selection.problems[0]
        yield f"{len(selection.problems)} rows of the dataset were left out; line {first.line}: {first.text}"
    if selection.unused:
        yield f"rows of other splits are not used: {selection.unused}"
    for name, count in selection.unlabelled_places.items():
        yield f"{count} rows have a mask or box of {name} and no label of it: it does not count there"
    copies = len(run.scores) - len(set(run.scores.image.tolist()))
    if copies:
        yield f"{copies} images are copies of another image of the dataset, under another name"
    if selection.not_asked:
        yield f"not among the model's findings, and not judged: {', '.join(selection.not_asked)}"
    if selection.not_labelled:
        yield f"the dataset has no labels of {', '.join(selection.not_labelled)}"
    for each in evaluation.findings:
        if each.auroc.high is not None and each.auroc.high < 0.5:
            yield f"the AUROC of {each.name} is below 0.5: check that 1 means present and that no columns are swapped"
    for name, count in evaluation.settings["resamples_without_a_class"].items():
        yield f"{name}: {count} resamples lacked a class and were skipped"
    yield from _notes_of_fit(evaluation)


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
