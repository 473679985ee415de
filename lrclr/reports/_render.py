"""Jinja2 as every report uses it.

Findings, splits, engines and machines can have any name. Each value is escaped, for HTML or for Markdown, and `clean`
removes control characters, line breaks and marks that change the direction of writing.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from lrclr._markdown import clean, in_markdown
from lrclr.errors import MissingExtraError
from lrclr.reports._estimate import NONE, fixed, p_value, percent, signed, significant, span, spanned

if TYPE_CHECKING:
    from pathlib import Path

    from jinja2 import Environment


def render(template: str, folder: Path | None = None, /, **values: Any) -> str:
    """A report from a template.

    Args:
        template: its file name, which ends in ``.html`` or ``.md``; values are escaped accordingly.
        folder: folder of the template; by default ``lrclr/reports/templates``.
        **values: what the template uses; a name that is missing is an error.

    Raises:
        MissingExtraError: Jinja2 is not installed.
    """
    return _environment(template.rpartition(".")[2], folder).get_template(template).render(**values)


@cache
def _environment(kind: str, folder: Path | None) -> Environment:
    try:
        import jinja2
        from markupsafe import Markup
    except ImportError:
        raise MissingExtraError("jinja2", "report", "writing a report") from None

    def finalize(value: object) -> object:
        if isinstance(value, Markup) or not isinstance(value, str):
            return value
        # As `Markup`, a text is not escaped again for HTML.
        return clean(value) if kind == "html" else Markup(in_markdown(clean(value)))  # noqa: S704

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder) if folder else jinja2.PackageLoader("lrclr.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "fixed": fixed,
        "p_value": p_value,
        "percent": percent,
        "signed": signed,
        "significant": significant,
        "span": span,
        "spanned": spanned,
        "words": lambda key: str(key).replace("_", " ").replace("sha256", "SHA-256"),
    }
    environment.globals |= {"dash": NONE, "fixed": fixed, "signed": signed}
    environment.tests["sha256"] = lambda value: (
        isinstance(value, str) and len(value) == 64 and all(c in "0123456789abcdef" for c in value)
    )
    return environment
