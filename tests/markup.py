"""What tests read from pages in HTML and Markdown."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Final

_WITHOUT_END: Final = frozenset({"br", "img", "meta"})


class Html(HTMLParser):
    """A page as a browser reads it. Fails if elements are not nested correctly.

    Attributes:
        elements: tag and attributes of each element, in order.
        text: the text of the page. Each piece of text ends with a line break.
    """

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(source)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in _WITHOUT_END:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += f"{data}\n"

    @property
    def tags(self) -> set[str]:
        return {tag for tag, _ in self.elements}


def cell_count(line: str) -> int:
    """Number of cells in a line of a Markdown table."""
    return len(re.findall(r"(?<!\\)(?:\\\\)*\|", line))
