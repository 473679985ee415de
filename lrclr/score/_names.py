"""File names as text: a name may hold any byte, a Parquet string may not."""

from __future__ import annotations

import os
import re

__all__ = ["name_of", "path_of"]

_ESCAPE = re.compile(r"\\(\\|x[0-9a-f]{2})")


def name_of(path: str) -> str:
    r"""A path as UTF-8 text, told apart from every other path's.

    Bytes that are no UTF-8 become ``\xNN``, and a backslash is doubled, so that no two paths share a text.
    """
    escaped = os.fsencode(path).replace(b"\\", b"\\\\")
    return escaped.decode("utf-8", errors="backslashreplace")


def path_of(name: str) -> str:
    """The path that `name_of` made the text of."""
    parts = _ESCAPE.split(name)
    # Every second part is what followed a backslash.
    raw = b"".join(_byte(part) if position % 2 else part.encode() for position, part in enumerate(parts))
    return os.fsdecode(raw)


def _byte(escape: str) -> bytes:
    return b"\\" if escape == "\\" else bytes([int(escape[1:], 16)])
