"""An evaluation's reports in a folder, all of them or none."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from lrclr._files import replace_directory
from lrclr.evaluation._markdown import markdown
from lrclr.evaluation._result import SCHEMA_VERSION, json_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from lrclr.evaluation._compare import Comparison
    from lrclr.evaluation._result import Evaluation, Example

__all__ = ["REPORTS", "report_json", "save_reports"]

REPORTS = ("report.json", "report.md", "report.html")


def report_json(evaluation: Evaluation, comparison: Comparison | None = None) -> str:
    """`Evaluation.to_json`, with the comparison under a key of its own if there is one."""
    if comparison is None:
        return evaluation.to_json()
    return json_text({"schema": SCHEMA_VERSION, **asdict(evaluation), "comparison": comparison.to_dict()})


def save_reports(
    folder: Path, evaluation: Evaluation, comparison: Comparison | None = None, examples: Sequence[Example] = ()
) -> None:
    """Write ``report.json``, ``report.md`` and ``report.html``, in place of earlier ones.

    Raises:
        UsageError: the folder holds anything else.
        LrclrError: it cannot be written; what was there before is unchanged.
    """
    from lrclr.evaluation._html import save_html

    with replace_directory(folder, expected=REPORTS, overwrite=True) as staging:
        as_json, as_markdown, as_html = (staging / name for name in REPORTS)
        as_json.write_text(report_json(evaluation, comparison), encoding="utf-8")
        as_markdown.write_text(markdown(evaluation, comparison), encoding="utf-8")
        save_html(evaluation, comparison, tuple(examples), as_html)
