"""The page needs nothing else, and says what the samples say."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from lrclr.bench import Peak, Result

# Private: the page as text, without writing a folder for each.
from lrclr.bench._reports import html as page
from lrclr.bench._reports import markdown
from lrclr.bench._view import rows_of
from lrclr.reports import significant

if TYPE_CHECKING:
    from collections.abc import Iterator

HOSTILE = '"><script>alert(1)</script><img src=http://evil.example/x onerror=alert(1)>'
VOID = {"br", "img", "meta"}


class Elements(HTMLParser):
    """Every element with its attributes; fails where they do not nest."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(source)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def whole(result: Result) -> str:
    """With a peak, so that there is a roofline."""
    return page(replace(result, peaks=(Peak("fp32", 100.0, "made up"),), bandwidth_gbs=10.0))


def references(source: str) -> Iterator[str]:
    for tag, attributes in Elements(source).found:
        assert tag not in {"script", "link", "iframe", "object", "embed", "base", "form", "image", "img"}
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in {"src", "href", "xlink:href", "action", "data", "srcset"}:
                yield value


def test_the_page_needs_nothing_else(whole: str) -> None:
    inside = {attributes["id"] for _, attributes in Elements(whole).found if "id" in attributes}
    assert all(value.removeprefix("#") in inside for value in references(whole))
    policies = [attributes.get("content", "") for _, attributes in Elements(whole).found if "http-equiv" in attributes]
    assert [policy.split(";")[0] for policy in policies] == ["default-src 'none'"]
    assert not re.search(r"https?://|url\((?!#)|@import", whole)
    assert set(re.findall(r"url\(#([^)]*)\)", whole)) <= inside


def test_names_are_text(result: Result) -> None:
    targets = tuple(replace(target, label=f"{target.label} {HOSTILE}") for target in result.targets)
    named = tuple(
        replace(each, case=replace(each.case, target=f"{each.case.target} {HOSTILE}")) for each in result.measurements
    )
    bad = page(replace(result, targets=targets, measurements=named, left_out=((HOSTILE, HOSTILE),)))
    list(references(bad))
    assert HOSTILE in "".join(Elements(bad).text)


def test_names_are_text_in_markdown(result: Result) -> None:
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
        assert {_bars(row) for row in (heads, *rows)} == {rule.count("|")}


def _bars(line: str) -> int:
    """How many cells a line of Markdown ends."""
    return len(re.findall(r"(?<!\\)(?:\\\\)*\|", line))


def test_every_figure_is_there(whole: str, result: Result) -> None:
    words = set(Elements(whole).text)
    for row in rows_of(result):
        for value in row.measurement.quantiles_ms.values():
            assert significant(value) in words or row.measurement.case.rate is not None
        assert row.measurement.case.what in words
        if row.faster is not None:
            assert significant(row.faster.value) in words


def test_it_has_all_its_charts(whole: str, result: Result) -> None:
    labels = [attributes.get("aria-label", "") for tag, attributes in Elements(whole).found if tag == "svg"]
    groups = {each.case.key for each in result.measurements if each.case.rate is None}
    assert sum(label.startswith("Latencies of") for label in labels) == len(groups)
    assert sum(label.startswith("Latency over throughput") for label in labels) == 5
    assert sum(label.startswith("Roofline") for label in labels) == 1


def test_it_is_dressed_for_light_and_dark(whole: str) -> None:
    style = whole.split("<style>")[1].split("</style>", maxsplit=1)[0]
    assert "prefers-color-scheme: dark" in style
    # A chart's colours are the page's: a fixed one would be lost on one of the two grounds.
    body = whole.split("</style>")[1]
    assert not re.search(r"(?:fill|stroke):\s*#|fill=\"#|stroke=\"#", body)


def test_the_same_result_gives_the_same_bytes(result: Result) -> None:
    assert page(result) == page(result)
