"""Names of repositories of the hub."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from lrclr.errors import UsageError

_PREFIX: Final = "hf:"
_PART: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_NAME: Final = re.compile(rf"(?P<repository>{_PART}/{_PART})(?:@(?P<revision>[A-Za-z0-9][A-Za-z0-9._/-]{{0,199}}))?")


@dataclass(frozen=True)
class HubReference:
    """A repository of models on the hub.

    Attributes:
        repository: ``OWNER/NAME``.
        revision: a branch, a tag or a commit; None for the branch ``main``.
    """

    repository: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{_PREFIX}{self.repository}" + ("" if self.revision is None else f"@{self.revision}")

    def at(self, commit: str) -> HubReference:
        """This repository at a commit."""
        return replace(self, revision=commit)


def hub_reference(path: str | os.PathLike[str]) -> HubReference | None:
    """Read the name of a repository on the hub; None for a path on this machine, which may have the same form.

    Raises:
        UsageError: it begins with ``hf:`` and is not ``hf:OWNER/NAME`` or ``hf:OWNER/NAME@REVISION``.
    """
    text = os.fspath(path)
    if not text.startswith(_PREFIX) or _exists(text):
        return None
    match = _NAME.fullmatch(text.removeprefix(_PREFIX))
    if match is None or ".." in text or text.endswith("/"):
        raise UsageError(
            f"{text[:120]!r} is not the name of a repository on the Hugging Face Hub",
            fix="Write hf:OWNER/NAME or hf:OWNER/NAME@REVISION, such as hf:openai/clip-vit-base-patch32.",
        )
    return HubReference(match["repository"], match["revision"])


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except OSError:
        # A name too long for a file, or a folder that may not be read.
        return False
