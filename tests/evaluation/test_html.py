"""The HTML page of an evaluation is complete, loads nothing from elsewhere, and shows every figure correctly."""

from __future__ import annotations

import base64
import html
import io
import re
from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lrclr.evaluation import (
    Comparison,
    Difference,
    Estimate,
    Evaluation,
    Example,
    FindingQuality,
    Grounding,
    MeanQuality,
    markdown,
)

# Private: the page as text, of results that a real evaluation does not give quickly.
from lrclr.evaluation._reports import html as page
from lrclr.evaluation._reports import save_reports
from lrclr.reports import clean, figure_svg
from tests.markup import Html, cell_count

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from matplotlib.figure import Figure

NAMES = ("Pleural Effusion", "Cardiomegaly", "Consolidation", "Pneumothorax", "Nodule", "Lung Lesion")
HTML_NAMES = (
    "<script>alert(1)</script>",
    '"><img src="https://example.org/x" onerror=alert(1)>',
    "</svg></style><b>$x_1^2$ & 100 %",
    "--><!-- ]]> &lt;i&gt; \u202egnorw",
    "肺炎 Пневмония ذات الرئة",
    'x style="fill: #123456" ' + "x" * 200,
)
NONE = Estimate(None)


class Numbers:
    """Different values for all figures, so that a wrong figure cannot be taken for another."""

    def __init__(self, seed: int) -> None:
        self._draws = np.random.default_rng(seed)

    def value(self, low: float = 0.55, high: float = 0.95) -> float:
        return round(float(self._draws.uniform(low, high)), 6)

    def estimate(self, middle: float | None = None, width: float = 0.06) -> Estimate:
        middle = self.value() if middle is None else middle
        below, above = self._draws.uniform(0.3 * width, width, 2)
        return Estimate(middle, max(0.0, round(middle - below, 6)), min(1.0, round(middle + above, 6)))


def quality(name: str, numbers: Numbers, *, validated: bool) -> FindingQuality:
    rates = np.linspace(0, 1, 60)
    roc = tuple((float(x), float(y)) for x, y in zip(rates, rates ** numbers.value(0.15, 0.5), strict=True))
    means = np.linspace(0.08, 0.92, 9)
    bins = tuple((round(float(m), 6), numbers.value(0.0, 1.0), int(4 + 700 * (m - 0.9) ** 4)) for m in means)
    cut = (numbers.value(0.4, 0.6), numbers.estimate(), numbers.estimate(), numbers.estimate())
    threshold, f1, sensitivity, specificity = cut if validated else (None, NONE, NONE, NONE)
    return FindingQuality(
        name=name,
        positives=131,
        negatives=1042,
        left_out=27,
        undefined="",
        no_interval="",
        auroc=numbers.estimate(),
        average_precision=numbers.estimate(),
        auroc_global=numbers.estimate(numbers.value(0.47, 0.8)),
        auroc_local=numbers.estimate(),
        threshold=threshold,
        f1=f1,
        sensitivity=sensitivity,
        specificity=specificity,
        calibration_error=numbers.value(0.1, 0.4),
        calibration_error_scaled=numbers.value(0.01, 0.1) if validated else None,
        roc=roc,
        reliability=bins,
    )


def undefined(name: str) -> FindingQuality:
    nothing = dict.fromkeys(("auroc", "average_precision", "auroc_global", "auroc_local"), NONE)
    decisions = dict.fromkeys(("f1", "sensitivity", "specificity"), NONE)
    return FindingQuality(
        name, 0, 1188, 12, "no image has it", "", **nothing, threshold=None, **decisions,
        calibration_error=None, calibration_error_scaled=None, roc=(), reliability=(),
    )  # fmt: skip


def grounding(name: str, numbers: Numbers) -> Grounding:
    def small() -> Estimate:
        return numbers.estimate(numbers.value(0.1, 0.3))

    return Grounding(
        name, 88, numbers.estimate(), small(), numbers.value(0.05, 0.15), numbers.estimate(), numbers.value(0.3, 0.5),
        numbers.estimate(), small(), numbers.value(0.02, 0.1),
    )  # fmt: skip


def evaluation(names: Sequence[str] = NAMES, *, validated: bool = True, masks: bool = True) -> Evaluation:
    """An invented evaluation whose last finding is undefined."""
    numbers = Numbers(7)
    findings = (*(quality(name, numbers, validated=validated) for name in names[:-1]), undefined(names[-1]))
    means = {
        name: numbers.estimate(width=0.03) for name in ("auroc", "average_precision", "auroc_global", "auroc_local")
    }
    f1 = numbers.estimate() if validated else NONE
    located = [grounding(name, numbers) for name in (*names[:-1], "mean")] if masks else []
    data: dict[str, Any] = {
        "manifest_sha256": "77ab" * 16, "split": "test", "images": 1200, "patients": 803, "unreadable": 2,
        "unreadable_lines": [17, 512], "rows_left_out": 4,
    }  # fmt: skip
    if validated:
        data["validation"] = {"manifest_sha256": "77ab" * 16, "split": "validation", "images": 400, "unreadable": 0}
    return Evaluation(
        model={
            "kind": "bundle", "sha256": "3f2a9c01b7d4e650" * 4, "checkpoint_sha256": "c0ffee00" * 8,
            "precision": "fp16", "engine": "onnxruntime (CPUExecutionProvider)", "fusion_trained": True, "exact": False,
            "alpha": 0.4,
        },
        data=data,
        settings={
            "resamples": 1000, "seed": 0, "resampled": "patients", "resamples_without_a_class": {names[1]: 3},
            "preset": None, "threshold": "f1", "not_labelled": ["Fracture"],
            "published": {"source": "CheXzero's ensemble on CheXpert's test set", "auroc": {names[0]: 0.932}},
        },
        environment={"lrclr": "0.1.0", "python": "3.11.7", "machine": "Linux x86_64, 2 cores", "numpy": "2.3.1"},
        alpha=0.4,
        alpha_from="validation" if validated else "model",
        alpha_sweep=tuple((i / 10, 0.84 - 0.3 * (i / 10 - 0.4) ** 2 + 1e-6) for i in range(11)) if validated else (),
        score_scale=21.73 if validated else None,
        findings=findings,
        mean=MeanQuality(findings=len(findings) - 1, **means, f1=f1, f1_findings=len(findings) - 2),
        grounding=tuple(located),
        score_bias=-0.613 if validated else None,
        finding_calibration={names[0]: (31.9, 0.274)} if validated else {},
        not_calibrated={names[1]: "3 validation images have it and 397 do not"} if validated else {},
    )  # fmt: skip


def comparison(names: Sequence[str] = NAMES) -> Comparison:
    numbers = Numbers(11)
    other = {"kind": "checkpoint", "sha256": "9d41" * 16, "precision": "fp32", "engine": "torch (cpu)", "alpha": 0.0}
    differences = []
    for figure, shown in (("auroc", (*names, "mean")), ("pointing", (*names[1:3], "mean"))):
        for name in shown:
            gap = numbers.value(-0.05, 0.15)
            estimate = Estimate(gap, round(gap - 0.0312, 6), round(gap + 0.0278, 6))
            values = (numbers.value(), numbers.value(), estimate, numbers.value(), numbers.value())
            differences.append(Difference(name, figure, 700, *values))  # type: ignore[arg-type]
    return Comparison({"kind": "bundle"}, other, 1196, tuple(differences))


def picture(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (566, 320), (shade, shade, shade)).save(buffer, "PNG")
    return buffer.getvalue()


def examples(names: Sequence[str] = NAMES) -> list[Example]:
    kinds = ("best", "best", "best", "missed", "missed", "false alarm")
    return [Example(name, kind, 0.91 - 0.07 * n, picture(30 * n)) for name in names[:2] for n, kind in enumerate(kinds)]


def headings(read: Html) -> list[str]:
    return re.findall(r"^(?:Recognition|Decisions|Calibration|Weight.*|Grounding|Against.*|Beside.*|Pictures)$",
                      read.text.split("Research use only", 1)[1], re.MULTILINE)  # fmt: skip


@pytest.fixture(scope="module")
def full_page() -> str:
    return page(evaluation(), comparison(), examples())


@pytest.fixture(scope="module")
def page_of_html_names() -> str:
    return page(evaluation(HTML_NAMES), comparison(HTML_NAMES), examples(HTML_NAMES))


def estimates(thing: object) -> Iterator[Estimate]:
    if isinstance(thing, Estimate):
        yield thing
    elif is_dataclass(thing):
        for field in fields(thing):
            yield from estimates(getattr(thing, field.name))
    elif isinstance(thing, tuple):
        for part in thing:
            yield from estimates(part)


def test_the_page_has_every_figure(full_page: str) -> None:
    text = Html(full_page).text
    result = evaluation()
    shown = [
        e for part in (result.findings, result.mean, result.grounding) for e in estimates(part) if e.value is not None
    ]
    assert len(shown) > 60
    for estimate in shown:
        assert f"\n{estimate.value:.3f}" in text
        assert f"{estimate.low:.3f}–{estimate.high:.3f}" in text
    for finding in result.findings[:-1]:
        assert f"\n{finding.threshold:.4g}\n" in text
        for value in (finding.calibration_error, finding.calibration_error_scaled):
            assert f"\n{value:.3f}\n" in text
        for mean, share, count in finding.reliability:
            assert f"\n{mean:.3f}\n{share:.3f}\n{count}\n" in text
    for each in result.grounding:
        for chance in (each.pointing_chance, each.hit_rate_chance, each.mass_chance):
            assert f"\n{chance:.3f}\n" in text
    for alpha, area in result.alpha_sweep:
        assert f"\n{alpha:.3g}\n{area:.4f}\n" in text
    assert "\nevery other labelled finding\n21.73\n-0.613\n" in text
    assert f"\n{NAMES[0]}\n31.9\n0.274\n" in text
    assert f"Not fitted: {NAMES[1]}: 3 validation images have it" in text
    assert "0.932" in text


def test_the_page_has_every_difference(full_page: str) -> None:
    text = Html(full_page).text.replace("\N{MINUS SIGN}", "-")
    for each in comparison().differences:
        gap = each.difference
        figures = f"\n{each.value:.3f}\n{each.against:.3f}\n{gap.value:+.3f}\n{gap.low:+.3f} to {gap.high:+.3f}\n"
        assert f"{figures}{each.p_family:.3f}\n" in text
    assert "1,196 images" in text


def test_a_significant_difference_is_bold() -> None:
    def page_with(verdict: Any) -> str:
        difference = Difference("Edema", "auroc", 9, 0.7, 0.6, Estimate(0.123, 0.01, 0.2), 0.03, 0.2, verdict)
        return page(evaluation(NAMES[:2], masks=False), replace(comparison(), differences=(difference,)))

    assert "<b>+0.123</b>" in page_with("higher")
    assert "<td>+0.123<small>" in page_with("no difference shown")


def test_the_head_names_model_and_data(full_page: str) -> None:
    head = Html(full_page).text.split("Recognition")[0]
    for part in ("3f2a9c01b7d4\n", "fp16", "onnxruntime", "77ab77ab77ab\n", "test\n", "1,200 images of 803 patients"):
        assert part in head
    assert "Research use only. Not a medical device." in head
    assert "2 images that could not be read, 4 rows" in head


def test_undefined_findings_have_a_reason(full_page: str) -> None:
    assert "Lung Lesion\n0\n1188\n12\nnot defined: no image has it\n" in Html(full_page).text


def test_an_auroc_of_chance_is_marked() -> None:
    result = evaluation(NAMES[:2], masks=False)
    first = replace(result.findings[0], auroc=Estimate(0.5123, 0.4876, 0.6))
    text = Html(page(replace(result, findings=(first, *result.findings[1:])), None, ())).text
    assert "0.512†" in text.replace("\n†", "†")


def test_the_page_has_settings_and_environment(full_page: str) -> None:
    text = Html(full_page).text
    for part in ("c0ffee00" * 8, "17, 512", "Fracture", "Linux x86_64, 2 cores", "resamples without a class"):
        assert part in text


def test_names_with_html_are_escaped(page_of_html_names: str) -> None:
    read = Html(page_of_html_names)
    assert "script" not in read.tags
    assert not [name for _, attributes in read.elements for name in attributes if name.startswith("on")]
    assert {attributes["src"][:22] for tag, attributes in read.elements if tag == "img"} == {"data:image/png;base64,"}
    for name in HTML_NAMES:
        shown = read.text.count(name.replace("\u202e", "\ufffd"))
        assert shown >= (3 if name == HTML_NAMES[-1] else 6)
    assert "\u202e" not in html.unescape(page_of_html_names)


def test_values_with_html_are_escaped() -> None:
    result = evaluation(NAMES[:2])
    bad = HTML_NAMES[0]
    result = replace(
        result,
        model={**result.model, "kind": bad, "precision": bad, "engine": bad, "sha256": bad, "ensemble": [bad]},
        data={**result.data, "split": bad, "manifest_sha256": bad, bad: {bad: [bad]}},
        settings={**result.settings, "threshold": bad, "published": {"source": bad, "auroc": {NAMES[0]: 0.9}}},
        environment={"lrclr": bad, bad: bad},
        alpha_from=bad,
    )
    against = {"kind": bad, "sha256": bad, "precision": bad, "engine": bad, "alpha": 0.1}
    other = replace(comparison(NAMES[:2]), against=against)
    assert "script" not in Html(page(result, other, [Example(bad, bad, 0.5, picture(1))])).tags


@pytest.mark.parametrize("which", ["full_page", "page_of_html_names"])
def test_the_page_loads_nothing_from_elsewhere(which: str, request: pytest.FixtureRequest) -> None:
    source = request.getfixturevalue(which)
    read = Html(source)
    assert not read.tags & {"script", "link", "iframe", "object", "embed", "base", "form", "video", "audio"}
    policy = [each["content"] for tag, each in read.elements if each.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]
    inside = {each["id"] for _, each in read.elements if "id" in each}
    assert len(inside) == sum("id" in each for _, each in read.elements)
    for _, attributes in read.elements:
        for name, value in attributes.items():
            if name in {"src", "href", "xlink:href"}:
                assert value.startswith("data:image/png;base64,") or value.removeprefix("#") in inside
            for target in re.findall(r"url\(([^)]*)\)", value):
                assert target.removeprefix("#") in inside
    style = source.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


def test_charts_have_text_in_the_font_of_the_page(full_page: str) -> None:
    assert full_page.count("<svg ") == 5 + 5 + 1 + 1 + 2
    assert "font-family:" not in full_page.split("</style>")[1]
    assert ">False positive rate</text>" in full_page


def test_the_same_evaluation_gives_the_same_bytes(full_page: str) -> None:
    import matplotlib as mpl

    with mpl.rc_context({"axes.facecolor": "red", "font.size": 30, "svg.fonttype": "path"}):
        assert page(evaluation(), comparison(), examples()) == full_page


def test_settings_of_matplotlib_are_not_changed() -> None:
    import matplotlib as mpl

    with mpl.rc_context({"font.size": 31}):
        before = dict(mpl.rcParams)
        page(evaluation(NAMES[:2]), None, ())
        assert dict(mpl.rcParams) == before


def test_missing_parts_have_no_section_in_the_page() -> None:
    every = ["Recognition", "Decisions", "Calibration", "Weight of the local score", "Grounding",
             "Against another model", "Beside published figures", "Pictures"]  # fmt: skip

    def found(*parts: Any) -> list[str]:
        read = Html(page(*parts))
        return [title for title in every if headings(read).count(title) == 2]

    names = NAMES[:2]
    assert found(evaluation(names), comparison(names), examples(names)) == every
    bare = evaluation(names, validated=False, masks=False)
    bare.settings.pop("published")
    assert found(bare, None, ()) == ["Recognition", "Calibration"]
    assert found(evaluation(names, masks=False), None, examples(names)) == [*every[:4], *every[6:]]


def test_an_untrained_head_is_explained_once_and_its_figures_are_dashes() -> None:
    result = evaluation(validated=False, masks=False)
    findings = tuple(replace(each, auroc_local=NONE) for each in result.findings)
    result = replace(
        result,
        model={**result.model, "fusion_trained": False},
        findings=findings,
        mean=replace(result.mean, auroc_local=NONE),
        alpha=0.0,
    )
    text = Html(page(result, None, ())).text
    assert text.count("The fusion head was never trained") == 1
    assert "Local score alone\n0." not in text


def test_a_page_with_undefined_findings_only() -> None:
    mean = MeanQuality(0, NONE, NONE, NONE, NONE, NONE, 0)
    result = replace(evaluation(validated=False, masks=False), findings=(undefined("Edema"),), mean=mean)
    page_ = Html(page(result, None, ()))
    assert "not defined: no image has it" in page_.text
    assert "Mean of 0" in page_.text


def test_example_pictures_have_captions(full_page: str) -> None:
    read = Html(full_page)
    shown = [attributes for tag, attributes in read.elements if tag == "img"]
    assert len(shown) == len(examples())
    for example, attributes in zip(examples(), shown, strict=True):
        assert base64.b64decode(attributes["src"].partition(",")[2]) == example.picture
        assert attributes["alt"].startswith(example.finding)
        assert f"probability {100 * example.probability:.1f} %" in attributes["alt"]
    for word in ("Found", "Missed", "False alarm", "share this page only as you would share them"):
        assert word in read.text


def test_a_failed_write_keeps_the_old_reports(tmp_path: Path) -> None:
    from lrclr.errors import LrclrError

    result, folder = evaluation(masks=False), tmp_path / "reports"
    save_reports(folder, result)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_reports(folder, replace(result, alpha=float("nan")))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (tmp_path / "file").touch()
    with pytest.raises(LrclrError):
        save_reports(tmp_path / "file" / "reports", result)


def test_charts_follow_light_and_dark(full_page: str) -> None:
    assert "prefers-color-scheme: dark" in full_page
    # A fixed colour would be invisible on one of the two backgrounds.
    assert not re.search(r"(?:fill|stroke):\s*#|(?:fill|stroke)=\"#", full_page.split("</style>")[1])


NAME = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30) | st.sampled_from(
    ('"><b id=x>', "{{ 7 * 7 }}", "{% raw %}", "&lt;b&gt;", "a | b", "`x` \\| <i>", 'x" style="fill: #123456', "]]>")
)


@settings(max_examples=12, deadline=None)
@given(st.lists(NAME, min_size=3, max_size=3, unique=True))
def test_any_name_is_escaped(names: list[str]) -> None:
    """Names add no element and no attribute to the page, and no cell to a table in Markdown."""
    named = _named(names, names[0])
    source, text = page(named), markdown(named)
    plain_source, plain_text = _of_plain_names()
    assert _shape(source) == _shape(plain_source)
    assert all(clean(name) in Html(source).text for name in names)
    assert [cell_count(line) for line in text.splitlines()] == [cell_count(line) for line in plain_text.splitlines()]
    assert "<" not in text


@cache
def _of_plain_names() -> tuple[str, str]:
    plain = _named(NAMES[:3], "word")
    return page(plain), markdown(plain)


def _named(findings: Sequence[str], word: str) -> Evaluation:
    result = evaluation(findings, masks=False, validated=False)
    # Few charts, so that many names can be tried. `test_any_name_in_a_chart_is_escaped` covers charts.
    plain = tuple(replace(each, roc=(), reliability=()) for each in result.findings)
    model = {**result.model, "kind": word, "engine": word, "precision": word}
    return replace(result, findings=plain, model=model, data={**result.data, "split": word})


def _shape(source: str) -> list[tuple[str, list[str]]]:
    """The elements of a page with the names of their attributes, except inside charts."""
    elements = Html(re.sub(r"<svg .*?</svg>", "", source, flags=re.DOTALL)).elements
    return [(tag, sorted(attributes)) for tag, attributes in elements]


@settings(max_examples=25, deadline=None)
@given(NAME)
def test_any_name_in_a_chart_is_escaped(name: str) -> None:
    def chart(text: str) -> Html:
        return Html(figure_svg((100, 80), "chart", text, lambda figure: _write(figure, text)))

    plain, named = chart("word"), chart(name)
    assert [(tag, sorted(keys)) for tag, keys in named.elements] == [
        (tag, sorted(keys)) for tag, keys in plain.elements
    ]
    assert clean(name).strip() in named.text


def _write(figure: Figure, text: str) -> None:
    figure.text(0.5, 0.5, f"x{clean(text)}x")
