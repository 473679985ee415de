"""A benchmark's reports in a folder, all of them or none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lrclr._files import check_replaceable, replace_directory
from lrclr.bench._result_file import RESULT, result_json

if TYPE_CHECKING:
    from pathlib import Path

    from lrclr.bench._result import Result

__all__ = ["REPORTS", "check_folder", "save_reports"]

REPORTS = (RESULT, "bench.md", "bench.html")


def check_folder(folder: Path) -> None:
    """Raise now what `save_reports` would raise after minutes of measuring.

    Raises:
        UsageError: the folder holds anything else.
    """
    check_replaceable(folder, REPORTS, overwrite=True)


def save_reports(folder: Path, result: Result) -> None:
    """Write ``bench.json``, ``bench.md`` and ``bench.html``, in place of earlier ones.

    Raises:
        UsageError: the folder holds anything else.
        LrclrError: it cannot be written; what was there before is unchanged.
    """
    from lrclr.bench._html import page
    from lrclr.bench._markdown import markdown

    with replace_directory(folder, expected=REPORTS, overwrite=True) as staging:
        as_json, as_markdown, as_html = (staging / name for name in REPORTS)
        as_json.write_text(result_json(result), encoding="utf-8")
        as_markdown.write_text(markdown(result), encoding="utf-8")
        as_html.write_text(page(result), encoding="utf-8")
