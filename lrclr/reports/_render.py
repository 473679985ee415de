"""Jinja2 as every report uses it.

Findings, splits, engines and machines can have any name. Autoescape makes text of each value in a page, and `clean`
removes control characters, line breaks and marks that change the direction of writing.
"""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from lrclr.errors import MissingExtraError

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["NONE", "clean", "percent", "render", "signed", "significant"]

NONE: Final = "–"


def render(template: str, **values: Any) -> str:
    """A report from one of ``lrclr/reports/templates``.

    Args:
        template: its file name; the values of an ``.html`` template are escaped.
        **values: what the template uses; a name that is missing is an error.

    Raises:
        MissingExtraError: Jinja2 is not installed.
    """
    return _environment().get_template(template).render(**values)


def clean(text: str) -> str:
    """`text` on one line, with U+FFFD for each character that is not printable."""
    return "".join(
        c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in unicodedata.normalize("NFC", text)
    )


def significant(value: float | None, digits: int = 3) -> str:
    """A number with three significant digits and without an exponent; a dash for None."""
    if value is None:
        return NONE
    if value == 0:
        return "0"
    shown = f"{value:.{digits}g}"
    return f"{value:,.0f}" if "e" in shown or abs(value) >= 1000 else shown


def percent(value: float | None, digits: int = 0) -> str:
    """A share as a percentage; a dash for None."""
    return NONE if value is None else f"{value:.{digits}%}"


def signed(value: float, digits: int = 3) -> str:
    """A difference with its sign, for a page."""
    return f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


@cache
def _environment() -> Environment:
    try:
        import jinja2
        from markupsafe import Markup
    except ImportError:
        raise MissingExtraError("jinja2", "bench", "writing a report") from None

    def finalize(value: object) -> object:
        return value if isinstance(value, Markup) or not isinstance(value, str) else clean(value)

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lrclr.reports"),
        autoescape=jinja2.select_autoescape(["html"]),
        undefined=jinja2.StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "significant": significant,
        "percent": percent,
        "signed": signed,
        "words": lambda key: str(key).replace("_", " ").replace("sha256", "SHA-256"),
        "cell": lambda text: str(text).replace("|", "/"),
    }
    environment.globals["dash"] = NONE
    environment.tests["sha256"] = lambda value: (
        isinstance(value, str) and len(value) == 64 and all(c in "0123456789abcdef" for c in value)
    )
    return environment
