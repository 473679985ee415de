"""TOML files that a stranger may have written: read within limits, in linear time."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from os import PathLike

    from lrclr.errors import LrclrError

# A key has one part, and two dots make three. tomllib takes quadratic time for keys of many parts.
MAX_DOTS: Final = 8
# TOML's strings and comments. Each alternative also matches what is not closed, and none looks at a character twice.
_TEXTS: Final = re.compile(
    r'"""(?:\\.|[^\\"]|"(?!""))*+(?:"""|\Z)|"(?:\\.|[^\\"\n])*+"?'
    r"|'''(?:[^']|'(?!''))*+(?:'''|\Z)|'[^'\n]*+'?|#[^\n]*+",
    re.DOTALL,
)


def toml_text(path: str | PathLike[str], *, kind: str, most_bytes: int, error: type[LrclrError]) -> str:
    """Read the text of a TOML file. A byte order mark at its beginning is left out.

    Args:
        path: the file.
        kind: what it should be, such as ``"a findings file"``, for the error.
        most_bytes: size of the largest file, a multiple of 1 MiB.
        error: the error to raise.

    Raises:
        LrclrError: an error of the class `error`. The file cannot be read, is too large, or is not UTF-8.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(most_bytes + 1)
    except OSError as failure:
        raise error(f"{path} cannot be read", why=failure.strerror) from None
    if len(data) > most_bytes:
        raise error(f"{path} is not {kind}", why=f"it is larger than {most_bytes >> 20} MiB")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as failure:
        line = data.count(b"\n", 0, failure.start) + 1
        raise error(f"{path} is not UTF-8 at line {line}", fix="Save it as UTF-8.") from None


def toml_content(text: str) -> dict[str, Any]:
    """The content of a TOML file, in Python's types.

    Raises:
        ValueError: it is not TOML, or a line has more dots than `MAX_DOTS`; the text is a clause that says why.
    """
    if any(line.count(".") > MAX_DOTS for line in _TEXTS.sub("", text).split("\n")):
        raise ValueError(f"a line has more than {MAX_DOTS} dots outside texts")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("brackets are nested too deeply") from None
