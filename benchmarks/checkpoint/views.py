"""Second stage: encodes augmented views of the training images with the base, once for all tunings of it.

::

    python -m benchmarks.checkpoint.views build/phantom/manifest.csv --base build/base.pt -o build/views

The base stays as it is in the tuning, so that its answers need not be computed again for each loss and each seed. The
same command continues where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from benchmarks.checkpoint.images import augmented, read_split
from benchmarks.checkpoint.network import network
from benchmarks.checkpoint.running import joined, place
from benchmarks.commands import reports_errors
from benchmarks.phantom.picture import SPLITS
from lrclr._files import replace_file, sha256_of
from lrclr.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from benchmarks.checkpoint.images import Split

__all__ = ["Views", "read_views", "split_of", "write_views"]

_BATCH = 50
_PIECE = 64 * _BATCH  # views in a file
_SETTINGS = "settings.json"


@dataclass(frozen=True)
class Views:
    """What the base makes of augmented training images.

    Attributes:
        rows: ``[V]`` int64, number of each view's image in the split.
        tokens: ``[V, 1+R, D]`` float16, CLS and the selected regions, as `Regions.tokens`.
    """

    rows: Tensor
    tokens: Tensor


def write_views(data: Split, base: Mapping[str, Tensor], folder: Path, count: int) -> None:
    """Encode `count` views, all images in random order again and again, and write them in pieces. Existing pieces stay.

    Of several processes, each writes its share of the pieces.

    Args:
        data: the training split.
        base: weights of the image tower.
        folder: folder of the pieces.
        count: number of views; a multiple of 50.
    """
    model = network(vocabulary=512)
    model.vision_model.load_state_dict(base)
    model.eval()
    order = np.random.default_rng(0)
    rows = np.concatenate([order.permutation(len(data.images)) for _ in range(-(-count // len(data.images)))])[:count]
    process, processes = place()
    for start in range(process * _PIECE, count, processes * _PIECE):
        file = folder / f"{start // _PIECE:03d}.pt"
        if file.exists():
            continue
        rng = torch.Generator().manual_seed(start)
        of_piece = rows[start : start + _PIECE]
        tokens = []
        for chosen in np.split(of_piece, len(of_piece) // _BATCH):
            pixel_values, _ = augmented(data.images[chosen], None, rng)
            with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
                tokens.append(model.encode_image(pixel_values).regions.tokens.half())
        with replace_file(file) as draft:
            torch.save({"rows": torch.from_numpy(of_piece), "tokens": torch.cat(tokens)}, draft)
        sys.stderr.write(f"{start + len(of_piece)} of {count} views\n")


def read_views(folder: Path) -> Views:
    """Read all pieces of a folder.

    Raises:
        UsageError: the folder holds none.
    """
    files = sorted(folder.glob("*.pt"))
    if not files:
        raise UsageError(f"{folder} holds no views", fix="Make them with `python -m benchmarks.checkpoint.views`.")
    pieces = [torch.load(file, weights_only=True) for file in files]
    return Views(*(torch.cat([piece[name] for piece in pieces]) for name in ("rows", "tokens")))


def split_of(folder: Path) -> str:
    """The split whose images the views of a folder show."""
    split: str = json.loads((folder / _SETTINGS).read_text())["split"]
    return split


@reports_errors
@joined()
def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.checkpoint.views", description="Encode views with the base.")
    parser.add_argument("dataset", type=Path, help="manifest.csv of the phantom data set")
    parser.add_argument("--base", type=Path, required=True, help="weights that benchmarks.checkpoint.base wrote")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the views")
    parser.add_argument("--split", choices=SPLITS, default="train", help="images of the views")
    parser.add_argument("--count", type=int, default=48000, help="number of views")
    options = parser.parse_args()
    settings = {
        "dataset": sha256_of(options.dataset),
        "split": options.split,
        "base": sha256_of(options.base),
        "count": options.count,
    }
    file = options.output / _SETTINGS
    if file.exists() and json.loads(file.read_text()) != settings:
        raise UsageError(
            f"{options.output} has views of another base, of another dataset, or another number of views",
            fix="Delete the folder, or choose another.",
        )
    options.output.mkdir(parents=True, exist_ok=True)
    with replace_file(file) as draft:
        draft.write(json.dumps(settings).encode())
    base = torch.load(options.base, weights_only=True)
    write_views(read_split(options.dataset, options.split), base, options.output, options.count)
    return 0


if __name__ == "__main__":
    sys.exit(main())
