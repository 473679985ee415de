"""A folder that holds the files of a report and nothing else."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from lrclr._files import check_replaceable, replace_directory


def check_report_folder(folder: Path, names: Collection[str]) -> None:
    """Raise UsageError, before measuring, if the folder holds files other than `names`."""
    check_replaceable(folder, names, overwrite=True)


def save_report_files(folder: Path, texts: Mapping[str, str]) -> None:
    """Write the text of each file, in place of an earlier report.

    Raises:
        UsageError: the folder holds other files.
        LrclrError: the folder cannot be written; existing files are unchanged.
    """
    with replace_directory(folder, expected=texts.keys(), overwrite=True) as staging:
        for name, text in texts.items():
            (staging / name).write_text(text, encoding="utf-8")
