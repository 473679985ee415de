"""What a zip archive holds, as its directory tells."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING

from lrclr.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path


def entries_of(path: Path) -> list[zipfile.ZipInfo]:
    """The entries of a zip archive; none of a file that is no such archive.

    Raises:
        CheckpointError: its directory is damaged.
    """
    try:
        if not zipfile.is_zipfile(path):
            return []
        with zipfile.ZipFile(path) as archive:
            return archive.infolist()
    except OSError:
        raise
    except Exception as error:
        # Whatever zipfile makes of damaged bytes; even is_zipfile raises.
        raise CheckpointError(f"{path} is not a file of weights", why="it is truncated or damaged") from error
