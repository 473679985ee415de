"""An evaluation as Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from lrclr.evaluation._compare import Comparison
    from lrclr.evaluation._result import Estimate, Evaluation

__all__ = ["COMPARED", "INTERVALS", "calibration_rows", "markdown", "reading", "refusals", "shown"]

_NONE = "–"
COMPARED = (
    "Each interval is a 95 % interval for its row alone. p is corrected by Holm for the number of rows: where the "
    "models do not differ at all, some row has one below 0.05 in at most 5 % of comparisons. No difference shown does "
    "not mean equal: the interval tells which differences are still possible."
)
INTERVALS = (
    "Those of AUROCs are DeLong's for patients and Newcombe's score interval, whichever is wider, and hold with few "
    "positives. All others are bootstrap percentiles, which are too narrow where positives are few; none is given "
    "where all resamples agree."
)


def markdown(evaluation: Evaluation, comparison: Comparison | None = None) -> str:
    """The report, in the order of its questions: what, how well, calibrated, where, against what."""
    parts = [*_head(evaluation), *_recognition(evaluation), *_decisions(evaluation), *_alpha(evaluation)]
    parts += [*_grounding(evaluation), *_published(evaluation), *_comparison(comparison), *_foot(evaluation)]
    return "\n".join(parts) + "\n"


def shown(figure: Estimate | float | None, digits: int = 3) -> str:
    """A figure, with its interval if it has one."""
    value = figure if isinstance(figure, float | None) else figure.value
    if value is None:
        return _NONE
    text = f"{value:.{digits}f}"
    if isinstance(figure, float) or figure is None or figure.low is None or figure.high is None:
        return text
    return f"{text} ({figure.low:.{digits}f}–{figure.high:.{digits}f})"


def reading(model: Mapping[str, Any]) -> str:
    """How the images were read, of a report's `model`."""
    return "read in full (--exact)" if model["exact"] else "read as `lrclr predict` and the server do"


def _head(evaluation: Evaluation) -> Iterator[str]:
    model, data, settings = evaluation.model, evaluation.data, evaluation.settings
    yield "# Evaluation\n"
    yield "Research use only. Not a medical device.\n"
    votes = f", ensemble of {len(model['ensemble'])}" if "ensemble" in model else ""
    digest = model["sha256"][:12] or "in memory"
    yield f"- Model: {model['kind']} `{digest}`, {model['precision']}{votes}, {model['engine']}"
    split = f", split {_cell(data['split'])}" if data["split"] else ""
    counts = f"{data['images']} images of {data['patients']} patients"
    yield f"- Data: dataset `{data['manifest_sha256'][:12]}`{split}: {counts}"
    if data["unreadable"] or data["rows_left_out"]:
        yield (
            f"- Left out: {data['unreadable']} images that could not be read, "
            f"{data['rows_left_out']} rows of the dataset"
        )
    yield f"- Images: {reading(model)}"
    if "validation" in data:
        fitted = data["validation"]
        yield f"- Fitted on validation ({fitted['images']} images): thresholds by {settings['threshold']}, calibration"
    else:
        yield "- No validation images: no threshold, no calibration"
    origin = {"model": "the model's own", "given": "as given", "validation": "best on validation"}
    yield f"- alpha, the weight of the local score: {evaluation.alpha:g}, {origin[evaluation.alpha_from]}"
    if not model["fusion_trained"]:
        yield "- The fusion head was never trained: local scores and region attention mean nothing and are not judged"
    if settings["not_labelled"]:
        yield f"- Without labels in the dataset: {_cell(', '.join(settings['not_labelled']))}"
    yield f"- Brackets: 95 % intervals. {INTERVALS}"
    yield f"- Bootstrap: {settings['resamples']} resamples of {settings['resampled']}, seed {settings['seed']}"


def _recognition(evaluation: Evaluation) -> Iterator[str]:
    yield "\n## Recognition\n"
    rows = [
        (
            each.name,
            f"{each.positives} / {each.negatives}",
            *(
                (f"undefined: {each.undefined}", *[_NONE] * 3)
                if each.undefined
                else map(shown, (each.auroc, each.average_precision, each.auroc_global, each.auroc_local))
            ),
        )
        for each in evaluation.findings
    ]
    mean = evaluation.mean
    last = map(shown, (mean.auroc, mean.average_precision, mean.auroc_global, mean.auroc_local))
    rows.append((f"**mean of {mean.findings}**", "", *last))
    yield from _table(
        ("Finding", "with / without", "AUROC", "Average precision", "AUROC, global only", "AUROC, local only"), rows
    )
    skipped = evaluation.settings["resamples_without_a_class"]
    if skipped:
        counts = ", ".join(f"{_cell(name)} {count}" for name, count in skipped.items())
        yield f"\nResamples without a positive or a negative image, skipped: {counts}."


def _decisions(evaluation: Evaluation) -> Iterator[str]:
    fitted = any(each.calibration_error_scaled is not None for each in evaluation.findings)
    yield "\n## Decisions and calibration\n"
    header = ["Finding", "Threshold", "F1", "Sensitivity", "Specificity", "Calibration error"]
    rows = []
    for each in evaluation.findings:
        row = [each.name, shown(each.threshold, 4), *map(shown, (each.f1, each.sensitivity, each.specificity))]
        rows.append([*row, shown(each.calibration_error), *([shown(each.calibration_error_scaled)] if fitted else [])])
    rows.append(["**mean**", "", shown(evaluation.mean.f1), *[""] * (4 if fitted else 3)])
    yield from _table([*header, "as fitted"] if fitted else header, rows)
    if evaluation.score_scale is not None or evaluation.finding_calibration:
        yield "\n### Calibration fitted on validation\n"
        yield from _table(("Finding", "Scale", "Bias"), calibration_rows(evaluation))
    if evaluation.not_calibrated:
        yield "\nNot fitted: " + "; ".join(_cell(text) for text in refusals(evaluation)) + "."


def calibration_rows(evaluation: Evaluation) -> list[tuple[str, str, str]]:
    """Name, scale and bias of everything that was fitted."""
    rows = [(name, f"{scale:g}", f"{bias:g}") for name, (scale, bias) in evaluation.finding_calibration.items()]
    if evaluation.score_scale is not None and evaluation.score_bias is not None:
        rows.append(("every other", f"{evaluation.score_scale:g}", f"{evaluation.score_bias:g}"))
    return rows


def refusals(evaluation: Evaluation) -> list[str]:
    """Why something was not fitted, one clause each."""
    return [f"{name or 'all findings together'}: {why}" for name, why in evaluation.not_calibrated.items()]


def _alpha(evaluation: Evaluation) -> Iterator[str]:
    if len(evaluation.alpha_sweep) > 1:
        yield "\n## Alpha on validation\n"
        yield from _table(
            ("alpha", "mean AUROC"), [(f"{alpha:.2f}", f"{area:.4f}") for alpha, area in evaluation.alpha_sweep]
        )


def _grounding(evaluation: Evaluation) -> Iterator[str]:
    if not evaluation.grounding:
        return
    yield "\n## Grounding\n"
    yield "Each figure beside plain rollout, which knows of no finding, and beside chance.\n"
    rows = [
        (
            each.name if each.name != "mean" else "**mean**",
            str(each.images),
            *map(shown, (each.pointing, each.pointing_rollout, each.pointing_chance)),
            *map(shown, (each.hit_rate, each.hit_rate_chance)),
            *map(shown, (each.mass, each.mass_rollout, each.mass_chance)),
        )
        for each in evaluation.grounding
    ]
    names = ("Pointing game", "rollout", "chance", "Hit rate", "chance", "Mass in mask", "rollout", "chance")
    yield from _table(("Finding", "Images", *names), rows)


def _published(evaluation: Evaluation) -> Iterator[str]:
    published = evaluation.settings.get("published")
    if not published:
        return
    areas = {each.name: each.auroc for each in evaluation.findings}
    yield "\n## Beside published figures\n"
    yield f"{published['source']}.\n"
    rows = [(name, shown(areas[name]), f"{area:.3f}") for name, area in published["auroc"].items() if name in areas]
    yield from _table(("Finding", "AUROC here", "AUROC published"), rows)


def _comparison(comparison: Comparison | None) -> Iterator[str]:
    if comparison is None:
        return
    other = comparison.against
    yield "\n## Against another model\n"
    yield f"{other['kind']} `{other['sha256'][:12] or 'in memory'}`, {other['precision']}, alpha {other['alpha']:g},"
    yield f"on the same {comparison.images} images. {COMPARED}\n"
    rows = [
        (
            each.name if each.name != "mean" else "**mean**",
            {"auroc": "AUROC", "pointing": "pointing game"}[each.figure],
            shown(each.value),
            shown(each.against),
            shown(each.difference, 4),
            shown(each.p_family),
            each.verdict,
        )
        for each in comparison.differences
    ]
    yield from _table(("Finding", "Figure", "Here", "Other", "Difference", "p, Holm", "Shown"), rows)


def _foot(evaluation: Evaluation) -> Iterator[str]:
    yield "\n## Environment\n"
    yield ", ".join(f"{name} {value}" for name, value in evaluation.environment.items())


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield f"|{'---|' * len(header)}"
    for row in rows:
        yield f"| {' | '.join(_cell(cell) for cell in row)} |"


def _cell(text: str) -> str:
    # A finding may be called anything.
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "\\`")
