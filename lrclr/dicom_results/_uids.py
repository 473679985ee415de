"""UIDs of results, which follow from what the result is about: the same result made again has the same UID."""

from __future__ import annotations

import hashlib
import uuid
from typing import Final

# Changed when the content of an object changes for the same prediction, since an archive keeps the first of two objects
# with one UID.
_FORM: Final = "lrclr results 1"


def hashed_uid(*parts: str) -> str:
    """A UID below 2.25, where UUIDs are (PS3.5, section B.2): at most 44 characters."""
    digest = hashlib.sha256("\0".join((_FORM, *parts)).encode()).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}"
