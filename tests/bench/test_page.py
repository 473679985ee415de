"""The HTML page loads nothing from elsewhere and has every figure of the result."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from lrclr.bench import Peak, Result

# Private: the page as text, without writing a folder for each.
from lrclr.bench._reports import html as page
from lrclr.bench._reports import markdown
from lrclr.bench._view import rows_of
from lrclr.reports import significant
from tests.markup import Html, cell_count

if TYPE_CHECKING:
    from collections.abc import Iterator

HTML_IN_NAME = '"><script>alert(1)</script><img src=http://evil.example/x onerror=alert(1)>'


@pytest.fixture(scope="module")
def page_with_roofline(result: Result) -> str:
    """A page with a measured peak, so that it has a roofline chart."""
    return page(replace(result, peaks=(Peak("fp32", 100.0, "made up"),), bandwidth_gbs=10.0))


def references(source: str) -> Iterator[str]:
    for tag, attributes in Html(source).elements:
        assert tag not in {"script", "link", "iframe", "object", "embed", "base", "form", "image", "img"}
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in {"src", "href", "xlink:href", "action", "data", "srcset"}:
                yield value


def test_the_page_loads_nothing_from_elsewhere(page_with_roofline: str) -> None:
    inside = {attributes["id"] for _, attributes in Html(page_with_roofline).elements if "id" in attributes}
    assert all(value.removeprefix("#") in inside for value in references(page_with_roofline))
    policies = [
        attributes.get("content", "")
        for _, attributes in Html(page_with_roofline).elements
        if "http-equiv" in attributes
    ]
    assert [policy.split(";")[0] for policy in policies] == ["default-src 'none'"]
    assert not re.search(r"https?://|url\((?!#)|@import", page_with_roofline)
    assert set(re.findall(r"url\(#([^)]*)\)", page_with_roofline)) <= inside


def test_names_are_escaped_in_html(result: Result) -> None:
    targets = tuple(replace(target, label=f"{target.label} {HTML_IN_NAME}") for target in result.targets)
    named = tuple(
        replace(each, case=replace(each.case, target=f"{each.case.target} {HTML_IN_NAME}"))
        for each in result.measurements
    )
    bad = page(replace(result, targets=targets, measurements=named, left_out=((HTML_IN_NAME, HTML_IN_NAME),)))
    list(references(bad))
    assert HTML_IN_NAME in Html(bad).text


def test_names_are_escaped_in_markdown(result: Result) -> None:
    name = "a | b \\| `c` <i>"
    targets = tuple(replace(target, label=f"{target.label} {name}") for target in result.targets)
    named = tuple(
        replace(each, case=replace(each.case, target=f"{each.case.target} {name}")) for each in result.measurements
    )
    text = markdown(replace(result, targets=targets, measurements=named))
    assert "<" not in text
    tables = [table.splitlines() for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)]
    assert len(tables) >= 2
    for heads, rule, *rows in tables:
        assert re.fullmatch(r"(\|-{3}:?)+\|", rule)
        assert {cell_count(row) for row in (heads, *rows)} == {rule.count("|")}


def test_every_figure_is_there(page_with_roofline: str, result: Result) -> None:
    words = set(Html(page_with_roofline).text.splitlines())
    for row in rows_of(result):
        for value in row.measurement.quantiles_ms.values():
            assert significant(value) in words or row.measurement.case.rate is not None
        assert row.measurement.case.what in words
        if row.faster is not None:
            assert significant(row.faster.value) in words


def test_the_page_has_all_charts(page_with_roofline: str, result: Result) -> None:
    labels = [attributes.get("aria-label", "") for tag, attributes in Html(page_with_roofline).elements if tag == "svg"]
    groups = {each.case.key for each in result.measurements if each.case.rate is None}
    assert sum(label.startswith("Latencies of") for label in labels) == len(groups)
    assert sum(label.startswith("Latency over throughput") for label in labels) == 5
    assert sum(label.startswith("Roofline") for label in labels) == 1


def test_the_page_has_light_and_dark_colours(page_with_roofline: str) -> None:
    style = page_with_roofline.split("<style>")[1].split("</style>", maxsplit=1)[0]
    assert "prefers-color-scheme: dark" in style
    # Charts use the page's colours. A fixed colour would be invisible on one of the two backgrounds.
    body = page_with_roofline.split("</style>")[1]
    assert not re.search(r"(?:fill|stroke):\s*#|fill=\"#|stroke=\"#", body)


def test_the_same_result_gives_the_same_bytes(result: Result) -> None:
    assert page(result) == page(result)
