"""What is written last into the folder of a bundle: the model card, and the manifest with the table of all files."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lrclr._files import write_whole
from lrclr.bundle._card import model_card
from lrclr.bundle._content import file_table
from lrclr.bundle._manifest import FINDINGS, MANIFEST
from lrclr.card import README, ModelCard
from lrclr.text import FindingSet

if TYPE_CHECKING:
    from pathlib import Path

    from lrclr.bundle._manifest import Manifest


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest of a folder, with a new table of its files, and the model card that follows from it.

    Args:
        folder: an unfinished bundle whose other files are complete.
        manifest: complete, except for its table of files.
    """
    card = model_card(manifest, FindingSet.load(folder / FINDINGS), ModelCard.beside(folder))
    write_whole(folder / README, card.encode())
    write_whole(folder / MANIFEST, replace(manifest, files=file_table(folder)).to_json().encode())
