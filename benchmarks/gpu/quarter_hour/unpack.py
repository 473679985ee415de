"""Joins and unpacks what `pack` made: ``python -m benchmarks.gpu.quarter_hour.unpack PART... -o FOLDER``.

Needs Python's standard library and NumPy. The parts may be given in any order; each is checked against its digest.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import io
import json
import lzma
import sys
import tarfile
import time
from pathlib import Path
from typing import Final

from benchmarks.gpu.quarter_hour.weights import DESCRIPTION, fill_weights

__all__ = ["INDEX", "unpack"]

INDEX: Final = "index.json"
"""File in every part that lists all pieces of the archive and their digests."""


def unpack(parts: list[Path], target: Path) -> None:
    """Unpack an archive to `target`, and write random weights beside the graphs that have none.

    Args:
        parts: the folders of its pieces.
        target: a folder, which is made.

    Raises:
        ValueError: a piece is missing or damaged.
    """
    index = json.loads((parts[0] / INDEX).read_text())
    joined = bytearray()
    for piece in index["pieces"]:
        file = next((part / piece["name"] for part in parts if (part / piece["name"]).is_file()), None)
        if file is None:
            raise ValueError(f"{piece['name']} of part {piece['part']} is not in the given folders")
        data = file.read_bytes()
        if hashlib.sha256(data).hexdigest() != piece["sha256"]:
            raise ValueError(f"{piece['name']} of part {piece['part']} is damaged: its SHA-256 differs")
        joined += data
    target.mkdir(parents=True, exist_ok=True)
    with lzma.open(io.BytesIO(joined)) as plain, tarfile.open(fileobj=plain, mode="r|") as archive:
        archive.extractall(target, filter="data")
    for description in sorted(target.rglob(DESCRIPTION)):
        fill_weights(description.parent)
    _link_cuda_libraries(target / "packages")


def _link_cuda_libraries(packages: Path) -> None:
    """ONNX Runtime looks for the CUDA libraries of pip packages beside itself, so they are linked there."""
    found = importlib.util.find_spec("nvidia")
    places = list(found.submodule_search_locations or []) if found is not None else []
    link = packages / "nvidia"
    if places and packages.is_dir() and not link.exists():
        link.symlink_to(Path(places[0]).resolve(), target_is_directory=True)


def main() -> None:
    """Unpack and print what was done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", type=Path, nargs="+", metavar="PART")
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args()
    began = time.perf_counter()
    try:
        unpack(given.parts, given.output)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    for path in sorted(given.output.glob("*/*")):
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) if path.is_dir() else 0
        print(f"{path}  {size >> 20} MiB")
    print(f"{time.perf_counter() - began:.1f} s")


if __name__ == "__main__":
    main()
