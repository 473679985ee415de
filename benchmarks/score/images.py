"""Thousands of small radiographs: the samples, resized, with noise; one in fifty is damaged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from lrclr.samples import sample_paths

if TYPE_CHECKING:
    from pathlib import Path

DAMAGED_EVERY = 50
_FOLDER = 500  # files in a folder


def make_images(folder: Path, number: int, side: int) -> None:
    """Write `number` PNGs about `side` pixels high and wide, of which one in `DAMAGED_EVERY` cannot be decoded."""
    rng = np.random.default_rng(7)
    pictures = [Image.open(path).convert("L") for path in sample_paths()]
    bases = [np.asarray(each.resize((side, side + extra))).astype(np.int16) for each in pictures for extra in range(8)]
    for count in range(number):
        target = folder / f"{count // _FOLDER:04d}" / f"{count:06d}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        base = bases[count % len(bases)]
        pixels = (base + rng.integers(-9, 10, base.shape, dtype=np.int16)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(target, compress_level=1)
        if count % DAMAGED_EVERY == 0:
            content = target.read_bytes()
            target.write_bytes(content[: len(content) // 2])
