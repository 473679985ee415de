"""What every report and the terminal show of an evaluation, so that they say the same."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from lrclr.reports import Estimate, fixed, spanned

if TYPE_CHECKING:
    from lrclr.evaluation._result import Evaluation

__all__ = ["COMPARED", "INTERVALS", "ORIGINS", "calibration_rows", "published_rows", "refusals", "shown"]

ORIGINS: Final = {"model": "the model’s own", "given": "as given", "validation": "best on validation"}
COMPARED: Final = (
    "Each interval is a 95 % interval for its row alone. p is corrected by Holm for the number of rows: where the "
    "models do not differ at all, some row has one below 0.05 in at most 5 % of comparisons. No difference shown does "
    "not mean equal: the interval tells which differences are still possible."
)
INTERVALS: Final = (
    "Those of AUROCs are DeLong's for patients and Newcombe's score interval, whichever is wider, and hold with few "
    "positives. All others are bootstrap percentiles, which are too narrow where positives are few; none is given "
    "where all resamples agree."
)


def shown(figure: Estimate | float | None, digits: int = 3) -> str:
    """A figure, with its interval if it has one."""
    if isinstance(figure, Estimate):
        return spanned(figure, partial(fixed, digits=digits))
    return fixed(figure, digits)


def calibration_rows(evaluation: Evaluation) -> list[tuple[str, str, str]]:
    """Name, scale and bias of everything that was fitted."""
    rows = [(name, f"{scale:g}", f"{bias:g}") for name, (scale, bias) in evaluation.finding_calibration.items()]
    if evaluation.score_scale is not None and evaluation.score_bias is not None:
        rows.append(("every other", f"{evaluation.score_scale:g}", f"{evaluation.score_bias:g}"))
    return rows


def refusals(evaluation: Evaluation) -> list[str]:
    """Why something was not fitted, one clause each."""
    return [f"{name or 'all findings together'}: {why}" for name, why in evaluation.not_calibrated.items()]


def published_rows(evaluation: Evaluation) -> list[tuple[str, Estimate, float]]:
    """Name, AUROC here and published AUROC, of the findings that have both."""
    areas = {each.name: each.auroc for each in evaluation.findings}
    published = (evaluation.settings.get("published") or {}).get("auroc", {})
    return [(name, areas[name], area) for name, area in published.items() if name in areas]
