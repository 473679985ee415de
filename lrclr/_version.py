"""Versions of lrclr and of installed packages."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Final

__version__: Final = "0.1.0"


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """Versions by name of those packages that are installed."""
    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
