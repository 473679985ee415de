"""The families of networks that lrclr reads from folders: one module for each.

A module describes how its family is stored: which configuration files it accepts, and how these and the tensors become
a `Checkpoint`. `docs/families/adding-a-family.md` adds one as an exercise.
"""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path
from typing import Final

from lrclr.checkpoints._beside import CONFIG, OPEN_CLIP, read_json
from lrclr.checkpoints.families import biomedclip, clip, dual_encoder, siglip
from lrclr.checkpoints.families._family import Family, Layout

__all__ = ["FAMILIES", "Family", "Layout", "layout_of"]

FAMILIES: Final = {
    family.name: family for family in (clip.FAMILY, siglip.FAMILY, biomedclip.FAMILY, dual_encoder.FAMILY)
}
"""By name."""


def layout_of(folder: Path, listed: Container[str] | None = None) -> tuple[Layout, dict[str, object]] | None:
    """The layout of a folder's configuration and that configuration; None if no family accepts it.

    Repositories of open_clip's networks often hold transformers' configuration too. That is preferred if its weights
    are there.

    Args:
        folder: with the configurations.
        listed: names of the files that count as its weights; by default those in the folder.

    Raises:
        CheckpointError: a configuration is not readable.
    """
    found = []
    for name in (CONFIG, OPEN_CLIP):
        if (folder / name).is_file():
            raw = read_json(folder / name)
            found += [
                (layout, raw)
                for family in FAMILIES.values()
                for layout in family.layouts
                if layout.config == name and layout.accepts(raw)
            ]
    with_weights = [(layout, raw) for layout, raw in found if layout.has_weights(folder, listed)]
    return next(iter(with_weights or found), None)
