"""Elements, tables and figures in words, for :mod:`lrclr.evaluation._html`.

Findings, splits and machines may be called anything: whatever is not `Markup` is escaped where it is put in.
"""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any, Final

from lrclr.evaluation._figures import clean

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from lrclr.evaluation._result import Estimate

__all__ = [
    "GUESS",
    "NONE",
    "Markup",
    "cell",
    "facts",
    "interval",
    "join",
    "model",
    "notes",
    "number",
    "row",
    "signed",
    "table",
    "tag",
]

GUESS: Final = "†"
NONE: Final = "–"
_VOID: Final = frozenset({"img", "meta"})
_SHORT: Final = 12


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def join(parts: Iterable[str]) -> Markup:
    """Everything in a row, escaped if it is not markup."""
    return Markup("".join(part if isinstance(part, Markup) else html.escape(clean(part)) for part in parts))


def tag(name: str, /, *content: str, **attributes: str) -> Markup:
    """An element; ``class_`` stands for ``class`` and ``aria_label`` for ``aria-label``."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(clean(value))}"' for key, value in attributes.items()
    )
    return Markup(f"<{name}{written}>" if name in _VOID else f"<{name}{written}>{join(content)}</{name}>")


def number(value: float | None, digits: int = 3) -> str:
    """A figure, or a dash where it is not defined."""
    return NONE if value is None else f"{value:.{digits}f}"


def interval(estimate: Estimate) -> str:
    """From where to where, if that is known."""
    return "" if estimate.low is None or estimate.high is None else f"{estimate.low:.3f}–{estimate.high:.3f}"


def cell(estimate: Estimate, *, guess: float | None = None) -> Markup:
    """A figure above its interval, marked if that holds what guessing gives."""
    between = interval(estimate)
    holds = guess is not None and estimate.low is not None and estimate.high is not None
    mark = GUESS if holds and estimate.low <= guess <= estimate.high else ""  # type: ignore[operator]
    return join([number(estimate.value), mark, tag("small", between) if between else ""])


def signed(estimate: Estimate) -> Markup:
    """A difference above its interval; bold if that does not hold 0."""
    if estimate.value is None:
        return Markup(NONE)
    value = _signed(estimate.value)
    if estimate.low is None or estimate.high is None:
        return join([value])
    told = estimate.low > 0 or estimate.high < 0
    between = f"{_signed(estimate.low)} to {_signed(estimate.high)}"
    return join([tag("b", value) if told else value, tag("small", between)])


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "\N{MINUS SIGN}")


def row(first: str, *cells: str, class_: str = "") -> Markup:
    """A row of a table, whose first cell names it; a cell that is a ``td`` already stays as it is."""
    rest = (each if isinstance(each, Markup) and each.startswith("<td") else tag("td", each) for each in cells)
    attributes = {"class_": class_} if class_ else {}
    return tag("tr", tag("th", first, scope="row"), *rest, **attributes)


def table(
    heads: Sequence[str], rows: Iterable[str], *, groups: Sequence[tuple[str, int]] = (), slim: bool = False
) -> Markup:
    """A table that scrolls by itself where the window is narrow.

    Args:
        heads: of the columns.
        rows: from `row`.
        groups: heads above the heads, each with the number of columns that it spans.
        slim: as wide as its content only.
    """
    lines = [tag("tr", *(tag("th", head, scope="col") for head in heads))]
    if groups:
        spans = (
            tag("th", name, colspan=str(count), scope="colgroup") if name else tag("td", colspan=str(count))
            for name, count in groups
        )
        lines.insert(0, tag("tr", *spans, class_="group"))
    inside = tag("table", tag("thead", *lines), tag("tbody", *rows), **({"class_": "slim"} if slim else {}))
    return tag("div", inside, class_="scroll", tabindex="0", role="group", aria_label=f"Table: {', '.join(heads)}")


def notes(lines: Iterable[str]) -> Markup:
    """Small print; empty lines are left out."""
    return tag("ul", *(tag("li", line) for line in lines if line), class_="notes")


def model(info: Mapping[str, Any]) -> Markup:
    """What a model is called: its kind and the first digits of its hash."""
    digest = str(info.get("sha256") or "")
    kind = str(info.get("kind") or "model").capitalize()
    return join([f"{kind} ", tag("code", digest[:_SHORT]) if digest else "in memory"])


def facts(title: str, values: Mapping[str, Any]) -> Markup:
    """A heading and a list of names and values."""
    pairs = [part for key, value in values.items() for part in (tag("dt", _words(key)), tag("dd", _value(value)))]
    return tag("div", tag("h3", title), tag("dl", *pairs))


def _words(key: str) -> str:
    return key.replace("_", " ").replace("sha256", "SHA-256")


def _value(value: Any) -> Markup:
    if isinstance(value, dict):
        parts = [join([f"{_words(str(key))}: ", _value(each)]) for key, each in value.items()]
        return join([part for each in parts for part in (Markup("<br>"), each)][1:]) if parts else Markup(NONE)
    if isinstance(value, list | tuple):
        return join([part for each in value for part in (", ", _value(each))][1:]) if value else Markup(NONE)
    if isinstance(value, bool):
        return Markup("yes" if value else "no")
    if value is None or value == "":
        return Markup(NONE)
    if isinstance(value, float):
        return join([f"{value:.6g}"])
    text = str(value)
    is_hash = len(text) == 64 and all(c in "0123456789abcdef" for c in text)
    return tag("code", text) if is_hash else join([text])
