"""An evaluation as JSON, Markdown and one HTML page."""

from __future__ import annotations

import base64
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from lrclr.evaluation import _charts as charts
from lrclr.evaluation._result import SCHEMA_VERSION, json_text
from lrclr.evaluation._view import (
    COMPARED,
    INTERVALS,
    ORIGINS,
    calibration_rows,
    people,
    published_rows,
    refusals,
    shown,
)
from lrclr.reports import fixed, render, save_report_files

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from lrclr.evaluation._compare import Comparison, Difference
    from lrclr.evaluation._result import Evaluation, Example
    from lrclr.reports import Estimate

REPORTS = ("report.json", "report.md", "report.html")
_FIGURES: Final = {"auroc": "AUROC", "pointing": "Pointing game"}
_KINDS: Final = {"best": "Found", "missed": "Missed", "false alarm": "False alarm"}
_CRITERIA: Final = {"f1": "F1", "mcc": "MCC", "youden": "Youden’s index"}


def report_json(evaluation: Evaluation, comparison: Comparison | None = None) -> str:
    """`Evaluation.to_json`, with the comparison under its own key if there is one."""
    if comparison is None:
        return evaluation.to_json()
    return json_text({"schema": SCHEMA_VERSION, **asdict(evaluation), "comparison": comparison.to_dict()})


def save_reports(
    folder: Path, evaluation: Evaluation, comparison: Comparison | None = None, examples: Sequence[Example] = ()
) -> None:
    """Write ``report.json``, ``report.md`` and ``report.html``, in place of earlier ones.

    Raises:
        UsageError: the folder holds other files.
        LrclrError: the folder cannot be written; existing files are unchanged.
    """
    texts = (
        report_json(evaluation, comparison),
        markdown(evaluation, comparison),
        html(evaluation, comparison, examples),
    )
    save_report_files(folder, dict(zip(REPORTS, texts, strict=True)))


def markdown(evaluation: Evaluation, comparison: Comparison | None = None) -> str:
    """The report as Markdown."""
    return render("evaluation.md", **_values(evaluation, comparison), shown=shown)


def html(evaluation: Evaluation, comparison: Comparison | None = None, examples: Sequence[Example] = ()) -> str:
    """One page with every table and chart. The same evaluation gives the same bytes.

    Args:
        evaluation: the evaluation; sections without figures are left out.
        comparison: comparison with another model, or None.
        examples: the images in the page, which may be images of patients.
    """
    calibrated = [each for each in evaluation.findings if each.calibration_error is not None or each.reliability]
    values = _values(evaluation, comparison)
    sections = (
        ("notes", "Notes", evaluation.notes),
        ("recognition", "Recognition", True),
        ("decisions", "Decisions", any(each.threshold is not None for each in evaluation.findings)),
        ("calibration", "Calibration", calibrated),
        ("alpha", "Weight of the local score", len(evaluation.alpha_sweep) > 1),
        ("grounding", "Grounding", evaluation.grounding),
        ("comparison", "Against another model", comparison and comparison.differences),
        ("published", "Beside published figures", values["published"]),
        ("pictures", "Pictures", examples),
        ("settings", "Settings and environment", True),
    )
    model, criterion = evaluation.model, evaluation.settings["threshold"]
    areas = (area for each in evaluation.findings for area in (each.auroc, each.auroc_global, each.auroc_local))
    return render(
        "evaluation.html",
        **values,
        charts=charts,
        title=f"Evaluation of {model['kind']} {model['sha256'][:12]}".strip(),
        version=evaluation.environment["lrclr"],
        sections=[(key, heading) for key, heading, wanted in sections if wanted],
        headline=list(_headline(evaluation)),
        guessing=any(area.contains(0.5) for area in areas),
        criterion=_CRITERIA.get(criterion, criterion),
        calibrated=calibrated,
        fitted=any(each.calibration_error_scaled is not None for each in calibrated),
        compared=_compared(comparison.differences if comparison else ()),
        not_tested=[
            f"Not defined: {_FIGURES[each.figure]} of {each.name}: {each.reason}."
            for each in (comparison.differences if comparison else ())
            if each.reason
        ],
        pictures=_pictures(examples),
        lists=[
            ("Model", model),
            ("Data", evaluation.data),
            ("Settings", {key: value for key, value in evaluation.settings.items() if key != "published"}),
            ("Environment", evaluation.environment),
        ],
    )


def _values(evaluation: Evaluation, comparison: Comparison | None) -> dict[str, Any]:
    """Values that Markdown and page share."""
    settings = evaluation.settings
    return {
        "evaluation": evaluation,
        "model": evaluation.model,
        "data": evaluation.data,
        "people": people(evaluation.data),
        "fitting": {"unreadable": 0, "rows_left_out": 0, **evaluation.data.get("validation", {})},
        "settings": settings,
        "mean": evaluation.mean,
        "comparison": comparison,
        "origin": ORIGINS.get(evaluation.alpha_from, evaluation.alpha_from),
        "calibration": calibration_rows(evaluation),
        "refusals": refusals(evaluation),
        "published": published_rows(evaluation),
        "skipped": ", ".join(f"{name} {count}" for name, count in settings["resamples_without_a_class"].items()),
        "INTERVALS": INTERVALS,
        "COMPARED": COMPARED,
    }


def _headline(evaluation: Evaluation) -> Iterator[tuple[str, Estimate, str]]:
    mean = evaluation.mean
    yield "Mean AUROC", mean.auroc, f"of {mean.findings} finding{'' if mean.findings == 1 else 's'}"
    for name, estimate in (("Global score alone", mean.auroc_global), ("Local score alone", mean.auroc_local)):
        if estimate.value is not None:
            yield name, estimate, "mean AUROC"
    for each in evaluation.grounding:
        if each.name == "mean" and each.pointing.value is not None:
            beside = f"rollout {fixed(each.pointing_rollout.value)}, chance {fixed(each.pointing_chance)}"
            yield "Pointing game", each.pointing, beside


def _compared(
    differences: Sequence[Difference],
) -> tuple[list[tuple[str, int]], list[tuple[str, list[Difference | None]]]]:
    """The groups of columns, and by finding its difference in each figure; the mean is last."""
    kinds = [kind for kind in _FIGURES if any(each.figure == kind for each in differences)]
    found: dict[tuple[str, str], Difference] = {(each.name, each.figure): each for each in differences}
    names = sorted(dict.fromkeys(each.name for each in differences), key=lambda name: name == "mean")
    groups = [("", 1), *((_FIGURES[kind], 5) for kind in kinds)]
    return groups, [(name, [found.get((name, kind)) for kind in kinds]) for name in names]


def _pictures(examples: Sequence[Example]) -> dict[str, dict[str, list[tuple[str, str]]]]:
    """By finding and kind, each image as a data URL with its probability."""
    found: dict[str, dict[str, list[tuple[str, str]]]] = {}
    for each in examples:
        kinds = found.setdefault(each.finding, {})
        url = f"data:image/png;base64,{base64.b64encode(each.picture).decode()}"
        kinds.setdefault(_KINDS.get(each.kind, each.kind), []).append((url, f"{100 * each.probability:.1f} %"))
    return found
