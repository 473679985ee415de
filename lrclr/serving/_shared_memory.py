"""What Triton's Python backend keeps in /dev/shm: whole requests, and so images and what DICOM says of a patient."""

from __future__ import annotations

import contextlib
from pathlib import Path

__all__ = ["remove_regions", "restrict_regions"]

_PLACE = Path("/dev/shm")  # noqa: S108 - where Triton puts them


def restrict_regions(prefix: str) -> None:
    """Let nobody but this account open the regions of that name; the backend lets every account read them."""
    for region in _PLACE.glob(f"{prefix}*"):
        with contextlib.suppress(FileNotFoundError):
            region.chmod(0o600)


def remove_regions(prefix: str) -> None:
    """Remove what backends that were killed left there."""
    for region in _PLACE.glob(f"{prefix}*"):
        region.unlink(missing_ok=True)
