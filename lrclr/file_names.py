"""Converts file names to text and back. A file name may contain any byte; strings in Parquet, JSON and CSV may not."""

from __future__ import annotations

import os
import re

__all__ = ["name_of", "path_of"]

_ESCAPE = re.compile(r"\\(\\|x[0-9a-f]{2})")


def name_of(path: str | os.PathLike[str]) -> str:
    r"""Convert a path to UTF-8 text; `path_of` converts it back.

    Bytes that are not UTF-8 become ``\xNN``, and a backslash is doubled, so that different paths have different texts.
    """
    escaped = os.fsencode(path).replace(b"\\", b"\\\\")
    return escaped.decode("utf-8", errors="backslashreplace")


def path_of(name: str) -> str:
    """Convert a text that `name_of` returned back to the path."""
    parts = _ESCAPE.split(name)
    # Every second part is the group of the pattern: the characters after a backslash.
    raw = b"".join(_byte(part) if position % 2 else part.encode() for position, part in enumerate(parts))
    return os.fsdecode(raw)


def _byte(escape: str) -> bytes:
    return b"\\" if escape == "\\" else bytes([int(escape[1:], 16)])
