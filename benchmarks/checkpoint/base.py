"""First stage: trains the image tower on radiographs without texts.

``--taught-by masks``: each patch token learns from the phantom's exact masks which findings its patch shows. With
random initial weights and few images, a vision transformer learns small findings much faster from masks than from
labels or reports. CLS is not trained; the second stage learns which patches matter for a text.

``--taught-by labels``: CLS learns from image labels which findings the image shows, as with a hospital's labels. The
second stage learns where they are.

::

    python -m benchmarks.checkpoint.base build/phantom/manifest.csv -o build/base.pt
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from benchmarks.checkpoint.images import augmented, patch_targets, read_split, row_batches
from benchmarks.checkpoint.network import network
from benchmarks.phantom.cases import FINDINGS

if TYPE_CHECKING:
    from torch import Tensor

    from lrclr.model import LrclrModel

_BATCH, _RATE, _WARM_UP = 32, 8e-4, 300


class Reader(nn.Module):
    """The image tower with a linear map from each patch token, or from CLS, to the findings."""

    def __init__(self, model: LrclrModel, *, from_patches: bool) -> None:
        super().__init__()
        self.tokens = slice(1, None) if from_patches else slice(0, 1)
        self.tower = model.vision_model
        width = model.config.vision_config.hidden_size
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, len(FINDINGS))
        # CLIP's initial weights suit large pretraining. A small tower trains faster from these.
        nn.init.trunc_normal_(self.tower.embeddings.patch_embedding.weight, std=0.04)
        for module in self.tower.encoder.layers.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.constant_(self.head.bias, -1.5)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Logits ``[B, 100, 7]`` of the patches, or ``[B, 1, 7]`` of the image."""
        hidden = self.tower.pre_layrnorm(self.tower.embeddings(pixel_values))
        for layer in self.tower.encoder.layers:
            hidden = layer(hidden, None)
        logits: Tensor = self.head(self.norm(hidden[:, self.tokens]))
        return logits


def train_base(dataset: Path, output: Path, *, from_patches: bool, epochs: float, seed: int) -> None:
    """Train the tower and write its weights."""
    torch.manual_seed(seed)
    data = read_split(dataset, "train")
    reader = Reader(network(vocabulary=512), from_patches=from_patches)
    matrices = [p for p in reader.parameters() if p.ndim > 1 and p.requires_grad]
    others = [p for p in reader.parameters() if p.ndim <= 1 and p.requires_grad]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=_RATE, betas=(0.9, 0.98))
    steps = int(epochs * len(data.images) / _BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_at(step, steps, _WARM_UP))
    rng, order = torch.Generator().manual_seed(seed + 1), np.random.default_rng(seed + 2)
    weight = torch.full((len(FINDINGS),), 2.0)
    began, losses = time.monotonic(), []
    for step, chosen in enumerate(row_batches(len(data.images), _BATCH, steps, order), 1):
        pixel_values, coverage = augmented(data.images[chosen], data.masks[chosen] if from_patches else None, rng)
        if coverage is None:
            targets = torch.from_numpy(data.labels[chosen]).float()[:, None]
        else:
            targets = patch_targets(coverage)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = reader(pixel_values)
        loss = 4 * nn.functional.binary_cross_entropy_with_logits(logits.float(), targets, pos_weight=weight)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch declares no types
        nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % 250 == 0:
            rate = step * _BATCH / (time.monotonic() - began)
            sys.stderr.write(f"step {step} of {steps}: loss {np.mean(losses[-250:]):.4f}, {rate:.0f} images/s\n")
    torch.save(reader.tower.state_dict(), output)


def rate_at(step: int, steps: int, warm_up: int) -> float:
    """Share of the learning rate: a linear warm-up, then a cosine down to a fiftieth."""
    return min(1.0, (step + 1) / warm_up) * (0.49 * (1 + math.cos(math.pi * step / steps)) + 0.02)


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.checkpoint.base", description="Train the base's image tower.")
    parser.add_argument("dataset", type=Path, help="manifest.csv of the phantom data set")
    parser.add_argument("-o", "--output", type=Path, required=True, help="file of the tower's weights")
    parser.add_argument("--taught-by", choices=("masks", "labels"), default="masks", help="what the tower learns from")
    parser.add_argument("--epochs", type=float, default=8, help="passes through the training split")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, order and augmentation")
    options = parser.parse_args()
    train_base(
        options.dataset,
        options.output,
        from_patches=options.taught_by == "masks",
        epochs=options.epochs,
        seed=options.seed,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
