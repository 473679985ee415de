"""Helpers that damage checkpoints and check that these are refused."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING

import pytest
import torch

from lrclr.checkpoints import load_checkpoint
from lrclr.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path


# Attention heads of the small network in the tests. A bare state dict does not contain them.
SMALL = (2, 1)


def refusal(path: Path, heads: tuple[int, ...] | None = None) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path, heads=heads)
    assert str(path) in str(caught.value)
    return str(caught.value)


def saved(content: object, file: Path) -> Path:
    torch.save(content, file)
    return file


def with_entries(source: Path, target: Path, changes: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    """A zip archive in which entries that end with given names have other contents."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for name in old.namelist():
            ending = next((ending for ending in changes if name.endswith(ending)), None)
            new.writestr(name, old.read(name) if ending is None else changes[ending])
    return target
