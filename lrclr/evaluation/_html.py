"""An evaluation as one page that needs nothing else: no network, no scripts, every picture in it.

Findings, splits and machines may be called anything: whatever is not `_Markup` is escaped where it is put in, and the
page's policy forbids scripts and loads besides.
"""

from __future__ import annotations

import base64
import html
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

from lrclr.evaluation import _figures as figures
from lrclr.evaluation._result import Estimate
from lrclr.evaluation._write import write_whole

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from lrclr.evaluation._compare import Comparison, Difference
    from lrclr.evaluation._result import Evaluation, Example, FindingQuality, Grounding

__all__ = ["save_html"]

_NOTICE: Final = "Research use only. Not a medical device."
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_KINDS: Final = {"best": "Found", "missed": "Missed", "false alarm": "False alarm"}
_ORIGINS: Final = {"model": "the model’s own", "given": "as given", "validation": "best on validation"}
_VOID: Final = frozenset({"img", "meta"})
_GUESS: Final = "†"


class _Markup(str):  # noqa: FURB189 - a text that joins and prints as one, told apart by its type alone
    """Text that is HTML already."""

    __slots__ = ()


@dataclass(frozen=True)
class _Section:
    key: str
    title: str
    parts: tuple[_Markup, ...]


def save_html(
    evaluation: Evaluation, comparison: Comparison | None, examples: Sequence[Example], path: Path
) -> None:
    """Write an evaluation as a page, whole or not at all. The same evaluation gives the same bytes.

    Args:
        evaluation: what was found; sections without figures are left out.
        comparison: with another model, if there is one.
        examples: the only images in the page; who passes them decides who may see the page.
        path: where to.

    Raises:
        LrclrError: the file cannot be written; what was there before is unchanged.
    """
    write_whole(path, _page(evaluation, comparison, examples).encode())


def _page(evaluation: Evaluation, comparison: Comparison | None, examples: Sequence[Example]) -> str:
    found = [
        _recognition(evaluation),
        _decisions(evaluation),
        _calibration(evaluation),
        _alpha(evaluation),
        _grounding(evaluation.grounding),
        _against(comparison),
        _published(evaluation),
        _pictures(examples, trained=bool(evaluation.model.get("fusion_trained", True))),
        _settings(evaluation),
    ]
    sections = [section for section in found if section is not None]
    links = _join(_tag("a", section.title, href=f"#{section.key}") for section in sections)
    body = [
        _header(evaluation),
        _tag("div", _tag("div", _tag("p", _tag("b", _NOTICE)), class_="page"), class_="notice"),
        _tag("nav", _tag("div", links, class_="page"), aria_label="Sections"),
        _tag(
            "main",
            *(_tag("section", _tag("h2", each.title), *each.parts, id=each.key) for each in sections),
            _tag("footer", f"Made by lrclr {evaluation.environment.get('lrclr', '')}. {_NOTICE}"),
            class_="page",
        ),
    ]
    style = resources.files("lrclr.evaluation").joinpath("report.css").read_text(encoding="utf-8")
    head = [
        _tag("meta", charset="utf-8"),
        _tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        _tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        _tag("title", f"Evaluation of {_named(evaluation.model)}"),
        _tag("style", _Markup(style)),
    ]
    return f"<!DOCTYPE html>\n{_tag('html', _tag('head', *head), _tag('body', *body), lang='en')}\n"


def _header(evaluation: Evaluation) -> _Markup:
    model, data, mean = evaluation.model, evaluation.data, evaluation.mean
    told = [str(model[key]) for key in ("precision", "engine") if model.get(key)]
    told += [f"ensemble of {len(model['ensemble'])}"] if model.get("ensemble") else []
    told += [f"alpha {evaluation.alpha:.3g}, {_ORIGINS.get(evaluation.alpha_from, evaluation.alpha_from)}"]
    images = f"{data.get('images', 0):,} images" + (f" of {data['patients']:,} patients" if "patients" in data else "")
    split = ("split ", _tag("b", str(data["split"])), " · ") if data.get("split") else ()
    lines = [
        _tag("p", *_model_name(model), " · ", " · ".join(told)),
        _tag("p", "Manifest ", _tag("code", _short(data.get("manifest_sha256"))), " · ", *split, images),
    ]
    if data.get("unreadable") or data.get("rows_left_out"):
        unread, left_out = data.get("unreadable", 0), data.get("rows_left_out", 0)
        lines.append(_tag("p", f"Left out: {unread} images that could not be read, {left_out} rows of the manifest"))
    boxes = [("Mean AUROC", mean.auroc, f"combined score, {_count(mean.findings, 'finding')}")]
    boxes += [(f"{which} score alone", each, "mean AUROC") for which, each in
              (("Global", mean.auroc_global), ("Local", mean.auroc_local)) if each.value is not None]
    for each in evaluation.grounding:
        if each.name == "mean" and each.pointing.value is not None:
            note = f"mean; rollout {_number(each.pointing_rollout.value)}, chance {_number(each.pointing_chance)}"
            boxes.append(("Pointing game", each.pointing, note))
    shown = (
        _tag("div", _tag("dt", name), _tag("dd", _number(each.value)), _tag("dd", _interval(each)), _tag("dd", note))
        for name, each, note in boxes
    )
    heading = _tag("h1", "Zero-shot evaluation")
    return _tag("header", _tag("div", heading, *lines, _tag("dl", *shown, class_="figures"), class_="page"))


def _recognition(evaluation: Evaluation) -> _Section:
    names = ("Finding", "With", "Without", "Left out", "AUROC", "AUROC, global", "AUROC, local", "Average precision")
    rows = []
    for each in evaluation.findings:
        cells = [each.name, str(each.positives), str(each.negatives), str(each.left_out)]
        if each.undefined:
            rows.append(_row(*cells, _tag("td", f"not defined: {each.undefined}", class_="why", colspan="4")))
        else:
            areas = (each.auroc, each.auroc_global, each.auroc_local)
            rows.append(_row(*cells, *(_cell(area, guess=0.5) for area in areas), _cell(each.average_precision)))
    mean = evaluation.mean
    areas = (mean.auroc, mean.auroc_global, mean.auroc_local, mean.average_precision)
    rows.append(_row(f"Mean of {mean.findings}", "", "", "", *map(_cell, areas), class_="mean"))
    skipped = evaluation.settings.get("resamples_without_a_class") or {}
    notes = [
        f"Below each figure: its 95 % interval, of {evaluation.settings.get('resamples', 0)} bootstrap resamples.",
        "Left out: images in which the finding is uncertain or not stated.",
        f"{_GUESS} The interval holds 0.5, which is what guessing gives." if any(_GUESS in row for row in rows) else "",
        "The fusion head was never trained: local scores and region attention mean nothing and are not judged."
        if not evaluation.model.get("fusion_trained", True)
        else "",
        f"Resamples without an image of either class, skipped: {_listed(skipped)}." if skipped else "",
    ]
    marks = figures.auroc_by_finding(evaluation.findings, mean, "auroc")
    legend = "Marks are the figures of the table, bars their intervals. Where the bars of two scores overlap widely, "
    legend += "these images do not tell the scores apart."
    curves = [
        _captioned(each, figures.roc_curve(each, f"roc-{number}"))
        for number, each in enumerate(evaluation.findings)
        if not each.undefined and each.roc
    ]
    note = "A ring marks the threshold that validation chose." if any(e.threshold for e in evaluation.findings) else ""
    parts = [_table(names, rows), _notes(notes)]
    parts += [_tag("div", _tag("figure", _Markup(marks)), _tag("p", legend, class_="notes"), class_="beside")]
    if curves:
        parts += [_tag("h3", "ROC curves"), _notes([note]), _tag("div", *curves, class_="small")]
    return _Section("recognition", "Recognition", tuple(parts))


def _decisions(evaluation: Evaluation) -> _Section | None:
    if all(each.threshold is None for each in evaluation.findings):
        return None
    rows = [
        _row(each.name, _number(each.threshold, 4), *map(_cell, (each.f1, each.sensitivity, each.specificity)))
        for each in evaluation.findings
    ]
    rows.append(_row("Mean", "", _cell(evaluation.mean.f1), "", "", class_="mean"))
    note = f"Thresholds were chosen on validation, by {evaluation.settings.get('threshold') or 'F1'}."
    names = ("Finding", "Threshold", "F1", "Sensitivity", "Specificity")
    return _Section("decisions", "Decisions", (_tag("p", note), _table(names, rows)))


def _calibration(evaluation: Evaluation) -> _Section | None:
    shown = [each for each in evaluation.findings if each.calibration_error is not None or each.reliability]
    if not shown:
        return None
    scale = evaluation.score_scale
    names = ["Finding", "Expected calibration error", *([] if scale is None else ["with the fitted scale"])]
    rows = [
        _row(e.name, *map(_number, (e.calibration_error, e.calibration_error_scaled)[: len(names) - 1])) for e in shown
    ]
    text = "How far probabilities are from the share of images that have the finding; 0 is best. "
    text += "No score scale was fitted." if scale is None else f"Score scale fitted on validation: {scale:.4g}."
    diagrams = [
        _captioned(each, figures.reliability_diagram(each, f"reliability-{number}"))
        for number, each in enumerate(shown)
        if each.reliability
    ]
    bins = [
        _row(each.name, _number(mean), _number(share), str(count)) for each in shown for mean, share, count in each.reliability
    ]
    heads = ("Finding", "Mean probability", "Share that has it", "Images")
    parts = [_tag("p", text), _table(names, rows, slim=True), _tag("div", *diagrams, class_="small")]
    parts += [_tag("details", _tag("summary", "The numbers of these diagrams"), _table(heads, bins, slim=True))]
    return _Section("calibration", "Calibration", tuple(parts))


def _alpha(evaluation: Evaluation) -> _Section | None:
    if len(evaluation.alpha_sweep) < 2:
        return None
    chart = _Markup(figures.alpha_sweep(evaluation.alpha_sweep, evaluation.alpha, "alpha-sweep"))
    rows = [_row(f"{alpha:.3g}", _number(area, 4)) for alpha, area in sorted(evaluation.alpha_sweep)]
    origin = _ORIGINS.get(evaluation.alpha_from, evaluation.alpha_from)
    text = f"In effect is alpha = {evaluation.alpha:.3g}, {origin}. The curve is of validation images alone."
    table = _tag("details", _tag("summary", "The numbers of this curve"), _table(("alpha", "Mean AUROC"), rows, slim=True))
    beside = _tag("div", _tag("figure", chart), _tag("div", _tag("p", text, class_="notes"), table), class_="beside")
    return _Section("alpha", "Weight of the local score", (beside,))
