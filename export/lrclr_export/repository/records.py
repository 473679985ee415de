"""Writes Triton's configuration and the manifest of a bundle, after all other files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lrclr._files import write_whole
from lrclr.bundle import write_manifest
from lrclr_export.repository.triton_config import serving_of, sizes_of, triton_configs

if TYPE_CHECKING:
    from pathlib import Path

    from lrclr.bundle import Manifest


def write_records(folder: Path, manifest: Manifest) -> None:
    """Write each ``config.pbtxt``, and then the manifest.

    Args:
        folder: an unfinished bundle whose other files are complete.
        manifest: complete, except for its table of files.
    """
    configs: dict[str, str] = {}
    for each in (*manifest.members, manifest):
        configs |= triton_configs(sizes_of(each), each.profiles, serving_of(each), each.names, manifest.serving)
    # A member of an ensemble has no model `lrclr`, and an ensemble no graphs but those of its members.
    for name in manifest.names.all:
        write_whole(folder / name / "config.pbtxt", configs[name].encode())
    write_manifest(folder, manifest)
