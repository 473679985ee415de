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
    sizes, serving = sizes_of(manifest), serving_of(manifest)
    for name, text in triton_configs(sizes, manifest.profiles, serving, manifest.names).items():
        write_whole(folder / name / "config.pbtxt", text.encode())
    write_manifest(folder, manifest)
