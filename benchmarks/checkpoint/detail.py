r"""Before the image tower goes on at more pixels: trains the convolutions beside its patch embedding alone, on masks.

Alone, the convolutions see three images in the time in which the whole tower sees one, and they come to it with lung
lesions already in their output.

::

    python -m benchmarks.checkpoint.detail build/mixed/manifest.csv --split mixed -o build/machines-2/stem.pt

The same command continues a run that was stopped.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from benchmarks.checkpoint.base import losses, of_patches, rows_with_lesions_repeated
from benchmarks.checkpoint.images import CELLS, augmented, read_split
from benchmarks.checkpoint.network import network
from benchmarks.checkpoint.running import BATCH, RowBatches, descend, falling_rate, joined, place, run_to_end, share
from benchmarks.commands import reports_errors
from benchmarks.phantom.cases import FINDINGS
from benchmarks.phantom.picture import SPLITS
from lrclr._files import sha256_of

if TYPE_CHECKING:
    from torch import Tensor

    from benchmarks.checkpoint.images import Split

__all__ = ["StemReader", "StemRun"]

_RATE, _WARM_UP = 2e-3, 200


class StemReader(nn.Module):
    """The convolutions of the image tower with a linear map from each patch to the findings."""

    def __init__(self) -> None:
        super().__init__()
        tower = network(vocabulary=512).vision_model
        self.stem, width = tower.stem.to(memory_format=torch.channels_last), tower.config.hidden_size
        self.head = nn.Linear(width, len(FINDINGS) * CELLS**2)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.constant_(self.head.bias, -3.0)
        for each in self.stem.modules():
            if isinstance(each, nn.Conv2d):
                nn.init.kaiming_normal_(each.weight, nonlinearity="relu")
                assert each.bias is not None
                nn.init.zeros_(each.bias)
        nn.init.zeros_(self.stem.project.weight)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Logits of the cells of each patch ``[B, 7, N, 4]``, float32."""
        last: Tensor = self.stem.features(pixel_values.to(memory_format=torch.channels_last))
        cells = self.head(last.flatten(2).transpose(1, 2)).unflatten(-1, (len(FINDINGS), CELLS**2))
        of_findings: Tensor = cells.transpose(1, 2)
        return of_findings.float()


class StemRun:
    """The training run of the convolutions; see `benchmarks.checkpoint.running.Run`."""

    def __init__(self, data: Split, *, steps: int, seed: int) -> None:
        torch.manual_seed(seed)
        self.step, self.steps = 0, steps
        self._data, self._reader = data, StemReader()
        self._rng = torch.Generator().manual_seed(seed + 1)
        self._rows = RowBatches(rows_with_lesions_repeated(data), seed + 2)
        self._optimizer = torch.optim.AdamW(self._reader.parameters(), lr=_RATE, betas=(0.9, 0.98), weight_decay=0.05)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimizer, lambda step: falling_rate(step, steps, _WARM_UP)
        )

    @property
    def stem(self) -> nn.Module:
        """The convolutions."""
        stem: nn.Module = self._reader.stem
        return stem

    def advance(self) -> dict[str, float]:
        """As `Run.advance`."""
        chosen, mine = self._rows.draw(), share()
        pixel_values, covered = augmented(self._data.images[chosen], self._data.masks[chosen], self._rng)
        assert covered is not None
        labels = torch.from_numpy(self._data.labels[chosen]).float()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            cells = self._reader(pixel_values[mine])
        parts = losses(cells, None, of_patches(covered)[mine], labels[mine])
        means = descend(parts, self._reader, [self._optimizer], [self._schedule])
        self.step += 1
        return means

    def state(self) -> dict[str, Any]:
        """As `Run.state`."""
        return {
            "step": self.step,
            "reader": self._reader.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "rng": self._rng.get_state(),
            "rows": self._rows.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """As `Run.restore`."""
        self.step = state["step"]
        self._reader.load_state_dict(state["reader"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self._rng.set_state(state["rng"])
        self._rows.restore(state["rows"])


@reports_errors
@joined()
def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.checkpoint.detail", description="Train the tower's convolutions.")
    parser.add_argument("dataset", type=Path, help="manifest.csv of the phantom data set")
    parser.add_argument("-o", "--output", type=Path, required=True, help="file of the convolutions' weights")
    parser.add_argument("--split", choices=SPLITS, default="train", help="images of the training")
    parser.add_argument("--epochs", type=float, default=4, help="passes through the split")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, order and augmentation")
    options = parser.parse_args()
    data = read_split(options.dataset, options.split)
    run = StemRun(data, steps=int(options.epochs * len(data.images) / BATCH), seed=options.seed)
    settings = {"dataset": sha256_of(options.dataset), "split": options.split, "seed": options.seed}
    run_to_end(run, options.output, {**settings, "steps": run.steps})
    if place()[0] == 0:
        torch.save(run.stem.state_dict(), options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
