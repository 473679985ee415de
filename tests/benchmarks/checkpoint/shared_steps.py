"""Two steps of both trainings of the default checkpoint, also in several processes: ``torchrun -m … FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from benchmarks.checkpoint.base import BaseRun
from benchmarks.checkpoint.images import SIZES, Split
from benchmarks.checkpoint.running import joined, place
from benchmarks.checkpoint.tune import TuneRun
from benchmarks.checkpoint.views import Views

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["after_two_steps", "smooth_images", "split"]

REPORTS = (
    "No pleural effusion. The lungs are clear.",
    "There is a moderate pleural effusion on the left.",
    "Moderate nodule in the right upper lobe. No pleural effusion.",
)


def smooth_images(count: int) -> NDArray[np.uint8]:
    """Noise whose neighbouring pixels are alike, as in a radiograph."""
    noise = torch.randn(count, 1, SIZES[-1], SIZES[-1], generator=torch.Generator().manual_seed(3))
    smooth = torch.nn.functional.avg_pool2d(noise, 31, 1, padding=15)
    return (127 + 800 * smooth[:, 0]).clamp(0, 255).to(torch.uint8).numpy()


def split(count: int = 48) -> Split:
    """Images with random labels, whose masks have the same place."""
    rng = np.random.default_rng(0)
    labels = rng.random((count, 7)) < 0.3
    masks = np.zeros((count, SIZES[-1], SIZES[-1]), np.uint8)
    masks[:, 80:120, 80:120] = (labels * 2 ** np.arange(7)).sum(1).astype(np.uint8)[:, None, None]
    return Split(smooth_images(count), masks, labels, ("No pleural effusion. The lungs are clear.",) * count)


def after_two_steps() -> dict[str, Any]:
    """Losses of both steps, and how far all weights together have moved, by the name of the training."""
    base = BaseRun(split(), from_masks=True, steps=8, seed=0)
    views = Views(torch.arange(48), torch.randn(48, 5, 192, generator=torch.Generator().manual_seed(5)).half())
    tune = TuneRun(REPORTS * 16, views, base.tower, local="pair+words", steps=8, seed=0)
    found: dict[str, Any] = {}
    for name, run, weights in (("base", base, base.tower), ("tune", tune, tune.model.state_dict())):
        before = {key: value.clone() for key, value in weights.items()}
        losses = [run.advance() for _ in range(2)]
        moved = torch.cat([(value - before[key]).flatten() for key, value in weights.items()])
        found[name] = {"losses": losses, "moved": moved}
    return found


@joined()
def main() -> None:
    """Write what this process found to a file with its number."""
    torch.save(after_two_steps(), Path(sys.argv[1], f"{place()[0]}.pt"))


if __name__ == "__main__":
    main()
