"""An evaluation as one page that needs nothing else: no network, no scripts, every picture in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from lrclr._files import write_whole
from lrclr.evaluation._html_markup import Markup, interval, join, model, number, tag
from lrclr.evaluation._html_sections import ORIGINS, sections
from lrclr.reports.markup import document

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from lrclr.evaluation._compare import Comparison
    from lrclr.evaluation._result import Estimate, Evaluation, Example

__all__ = ["save_html"]

_NOTICE: Final = "Research use only. Not a medical device."


def save_html(evaluation: Evaluation, comparison: Comparison | None, examples: Sequence[Example], path: Path) -> None:
    """Write an evaluation as a page, whole or not at all. The same evaluation gives the same bytes.

    Args:
        evaluation: what was found; sections without figures are left out.
        comparison: with another model, if there is one.
        examples: the only images in the page: whoever passes them decides who may see it.
        path: where to.

    Raises:
        LrclrError: the file cannot be written; what was there before is unchanged.
    """
    write_whole(path, _page(evaluation, comparison, examples).encode())


def _page(evaluation: Evaluation, comparison: Comparison | None, examples: Sequence[Example]) -> str:
    parts = sections(evaluation, comparison, examples)
    links = join(tag("a", part.title, href=f"#{part.key}") for part in parts)
    version = evaluation.environment.get("lrclr", "")
    body = (
        _header(evaluation),
        tag("div", tag("p", tag("b", _NOTICE), class_="page"), class_="notice"),
        tag("nav", tag("div", links, class_="page"), aria_label="Sections"),
        tag(
            "main", *(tag("section", tag("h2", part.title), *part.parts, id=part.key) for part in parts), class_="page"
        ),
        tag("footer", tag("div", f"Made by lrclr {version}. {_NOTICE}", class_="page")),
    )
    digest = str(evaluation.model.get("sha256") or "")[:12]
    title = f"Evaluation of {evaluation.model.get('kind', 'a model')} {digest}".strip()
    return document(title, body, [("lrclr.reports", "templates/page.css")])


def _header(evaluation: Evaluation) -> Markup:
    info, data = evaluation.model, evaluation.data
    told = [str(info[key]) for key in ("precision", "engine") if info.get(key)]
    told += [f"ensemble of {len(info['ensemble'])}"] if info.get("ensemble") else []
    told.append(f"alpha {evaluation.alpha:.3g}, {ORIGINS.get(evaluation.alpha_from, evaluation.alpha_from)}")
    counts = f"{data.get('images', 0):,} images" + (f" of {data['patients']:,} patients" if "patients" in data else "")
    dataset = tag("code", str(data.get("manifest_sha256") or "–")[:12])
    split = ("split ", tag("b", str(data["split"])), " · ") if data.get("split") else ()
    lines = [
        tag("p", model(info), " · ", " · ".join(told)),
        tag("p", "Dataset ", dataset, " · ", *split, tag("b", counts)),
    ]
    unreadable, left_out = data.get("unreadable", 0), data.get("rows_left_out", 0)
    if unreadable or left_out:
        lines.append(tag("p", f"Left out: {unreadable} images that could not be read, {left_out} rows of the dataset"))
    boxes = (
        tag("div", tag("dt", name), tag("dd", number(each.value)), tag("dd", interval(each)), tag("dd", note))
        for name, each, note in _headline(evaluation)
    )
    inside = tag("div", tag("h1", "Zero-shot evaluation"), *lines, tag("dl", *boxes, class_="figures"), class_="page")
    return tag("header", inside)


def _headline(evaluation: Evaluation) -> Iterator[tuple[str, Estimate, str]]:
    mean = evaluation.mean
    yield "Mean AUROC", mean.auroc, f"of {mean.findings} finding{'' if mean.findings == 1 else 's'}"
    for name, estimate in (("Global score alone", mean.auroc_global), ("Local score alone", mean.auroc_local)):
        if estimate.value is not None:
            yield name, estimate, "mean AUROC"
    for each in evaluation.grounding:
        if each.name == "mean" and each.pointing.value is not None:
            beside = f"rollout {number(each.pointing_rollout.value)}, chance {number(each.pointing_chance)}"
            yield "Pointing game", each.pointing, beside
