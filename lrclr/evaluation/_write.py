"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING

from lrclr.errors import LrclrError

if TYPE_CHECKING:
    from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Put `content` at `path`, in place of what is there.

    Raises:
        LrclrError: it cannot be written; what was there before is unchanged.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        try:
            with partial.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise LrclrError(
            f"{path} could not be written",
            why=error.strerror or type(error).__name__,
            fix="What was there before is unchanged.",
        ) from error
