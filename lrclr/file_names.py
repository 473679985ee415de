"""File names as text. A name may hold any byte; strings in Parquet, JSON and CSV may not."""

from __future__ import annotations

import os
import re

__all__ = ["name_of", "path_of"]

_ESCAPE = re.compile(r"\\(\\|x[0-9a-f]{2})")


def name_of(path: str | os.PathLike[str]) -> str:
    r"""Write a path as UTF-8 text from which `path_of` makes the path again.

    Bytes that are no UTF-8 become ``\xNN``, and a backslash is doubled, so that no two paths share a text.
    """
    escaped = os.fsencode(path).replace(b"\\", b"\\\\")
    return escaped.decode("utf-8", errors="backslashreplace")


def path_of(name: str) -> str:
    """Return the path that `name_of` wrote."""
    parts = _ESCAPE.split(name)
    # Every second part is what followed a backslash.
    raw = b"".join(_byte(part) if position % 2 else part.encode() for position, part in enumerate(parts))
    return os.fsdecode(raw)


def _byte(escape: str) -> bytes:
    return b"\\" if escape == "\\" else bytes([int(escape[1:], 16)])
