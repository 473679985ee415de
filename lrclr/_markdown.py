"""Texts of any content in Markdown."""

from __future__ import annotations

import unicodedata


def clean(text: str) -> str:
    """`text` on one line, with U+FFFD for each character that is not printable."""
    return "".join(
        c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in unicodedata.normalize("NFC", text)
    )


def in_markdown(text: str) -> str:
    """`text` as text in Markdown, in a cell of a table too."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "\\`")
