r"""First stage: trains the image tower on radiographs without texts.

``--taught-by masks``: each patch token learns from the phantom's exact masks which findings it shows and where in the
patch, and CLS and the strongest patches learn from image labels which findings the image shows.

``--taught-by labels``: the same without masks, as with a hospital's labels.

With masks, until the learning rate falls, the blocks read a random half of the patches of each image (as in Li et al.,
FLIP, 2023), which takes half of the time. A finding that only the others show is then taken as absent.

Muon makes weights large, and attention sharp, so that rounding changes the answers. Therefore weights decay faster when
the learning rate falls, and in the last fifth of the steps the layers of the tower compute with numbers that are
rounded as in int8.

A run that starts from the weights of another one has no first part: its rate falls from the beginning.

::

    python -m benchmarks.checkpoint.base build/phantom/manifest.csv --pixels 112 -o build/machines-1/coarse.pt
    python -m benchmarks.checkpoint.base build/mixed/manifest.csv --split mixed --epochs 6 --pixels 112 \
        --weights build/machines-1/coarse.pt -o build/machines-2/coarse.pt
    python -m benchmarks.checkpoint.base build/mixed/manifest.csv --split mixed --epochs 4 \
        --weights build/machines-2/coarse.pt --stem build/machines-2/stem.pt -o build/machines-2/base.pt

The same command continues a run that was stopped.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from benchmarks.checkpoint.images import CELLS, SIDE, SIZES, augmented, read_split
from benchmarks.checkpoint.initial import initialise_tower, with_larger_patches
from benchmarks.checkpoint.network import network
from benchmarks.checkpoint.running import BATCH, RowBatches, descend, joined, place, run_to_end, share
from benchmarks.commands import reports_errors
from benchmarks.phantom.cases import FINDINGS
from benchmarks.phantom.picture import SPLITS
from lrclr._files import sha256_of
from lrclr.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch import Tensor

    from benchmarks.checkpoint.images import Split
    from lrclr.model import LrclrModel

__all__ = ["BaseRun", "Reader", "losses", "of_patches", "rows_with_lesions_repeated"]

_WARM_UP = 60
_MATRIX_RATE, _RATE = 5e-3, 8e-4
_SETTLES = 0.8  # share of the steps after which numbers are rounded
_FALL = 0.3  # share of the steps until then over which the rate falls; 1 if the run starts from weights
_SETTLING = 0.4  # first rate of the rest of the steps; it falls to nothing, too
_DECAY, _FALLING_DECAY, _SETTLING_DECAY = 0.08, 0.25, 0.5  # of the matrices of the blocks
_INPUTS, _WEIGHTS = 127, 63  # largest int8 numbers, of the inputs of layers and of weights
_KEPT = 0.99  # of the average of the weights, at each step
_EXAMPLES = 200  # images from which the initial patch embedding is computed
_STRONGEST = 2  # cells whose mean logit stands for the image
# Lung lesions are learnt last. They are small, so each cell of one counts more; their losses count more, and images
# with a lesion are drawn more often.
_POSITIVE = torch.tensor([2.0, 4.0, 2.0, 2.0, 4.0, 15.0, 2.0])
_OF_FINDING = torch.tensor([1.0, 2.0, 1.0, 1.0, 2.0, 8.0, 1.0])
_OF_LABEL = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 4.0, 1.0])
_LESION, _LESION_DRAWS = FINDINGS.index("Lung Lesion"), 3


class Reader(nn.Module):
    """The image tower with linear maps from each patch token, and from CLS, to the findings."""

    def __init__(self, model: LrclrModel) -> None:
        super().__init__()
        self.tower = model.vision_model.to(memory_format=torch.channels_last)  # convolutions are faster in it
        width = model.config.vision_config.hidden_size
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, len(FINDINGS) * CELLS**2)
        self.cls_norm, self.cls_head = nn.LayerNorm(width), nn.Linear(width, len(FINDINGS))
        for head, bias in ((self.head, -3.0), (self.cls_head, -1.5)):
            nn.init.normal_(head.weight, std=0.02)
            nn.init.constant_(head.bias, bias)
        self.rounds = False
        self._products = ["tower.embeddings.patch_embedding"] + [
            name for name, each in self.named_modules() if ".layers." in name and isinstance(each, nn.Linear)
        ]
        for name in self._products:
            self.get_submodule(name).register_forward_pre_hook(self._rounded_input)

    def rounded(self, pixel_values: Tensor, kept: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As `forward`, with inputs and weights of the tower's layers rounded as in int8."""
        weights = {f"{name}.weight": self.get_parameter(f"{name}.weight") for name in self._products}
        rounded = {name: _rounded(weight, _WEIGHTS, rows=True) for name, weight in weights.items()}
        self.rounds = True
        try:
            cells, image = torch.func.functional_call(self, rounded, (pixel_values, kept))
        finally:
            self.rounds = False
        return cells, image

    def _rounded_input(self, _: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor] | None:
        return (_rounded(inputs[0].float(), _INPUTS),) if self.rounds else None

    def forward(self, pixel_values: Tensor, kept: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits of the cells of each patch ``[B, 7, N, 4]``, and of the image ``[B, 7]``, float32.

        Args:
            pixel_values: ``[B, 3, S, S]``.
            kept: ``[B, N]`` int64, numbers of the patches that the blocks read; None for all 196.
        """
        hidden = self.tower.embed(pixel_values.to(memory_format=torch.channels_last))
        if kept is not None:
            hidden = torch.cat([hidden[:, :1], hidden[:, 1:].take_along_dim(kept[:, :, None], 1)], 1)
        for layer in self.tower.blocks:
            hidden = layer(hidden, None)
        cells = self.head(self.norm(hidden[:, 1:])).unflatten(-1, (len(FINDINGS), CELLS**2)).transpose(1, 2)
        return cells.float(), self.cls_head(self.cls_norm(hidden[:, 0])).float()


class BaseRun:
    """The training run of a base; see `benchmarks.checkpoint.running.Run`.

    Attributes:
        average: moving average of the weights, which is less noisy than the weights of any step.
    """

    def __init__(
        self, data: Split, *, from_masks: bool, steps: int, seed: int, start: Mapping[str, Tensor] | None = None
    ) -> None:
        torch.manual_seed(seed)
        self.step, self.steps = 0, steps
        self._fall = _FALL if start is None else 1.0
        self._data, self._from_masks = data, from_masks
        self._reader = Reader(network(vocabulary=512, size=data.images.shape[-1]))
        self._rng = torch.Generator().manual_seed(seed + 1)
        self._rows = RowBatches(rows_with_lesions_repeated(data), seed + 2)
        if start is None:
            examples, _ = augmented(data.images[:_EXAMPLES], None, self._rng)
            initialise_tower(self._reader.tower, examples, self._rng)
        else:
            self._reader.tower.load_state_dict(start)
        self._optimizers = _optimizers(self._reader)
        self._schedules = [torch.optim.lr_scheduler.LambdaLR(each, self._rate) for each in self._optimizers]
        self.average = {name: value.detach().clone() for name, value in self._reader.state_dict().items()}

    @property
    def tower(self) -> dict[str, Tensor]:
        """The averaged weights of the tower."""
        return {name.removeprefix("tower."): value for name, value in self.average.items() if name.startswith("tower.")}

    def advance(self) -> dict[str, float]:
        """As `Run.advance`."""
        chosen, data = self._rows.draw(), self._data
        masks = data.masks[chosen] if self._from_masks else None
        pixel_values, cells_covered = augmented(data.images[chosen], masks, self._rng)
        mine, labels = share(), torch.from_numpy(data.labels[chosen]).float()
        coverage, kept = None if cells_covered is None else of_patches(cells_covered), None
        settles = self.step >= _SETTLES * self.steps
        falls = self.step >= (1 - self._fall) * _SETTLES * self.steps
        if coverage is not None and not falls:
            kept, coverage, labels = _half(coverage, labels, self._rng)
        decay = _SETTLING_DECAY if settles else _FALLING_DECAY if falls else _DECAY
        self._optimizers[0].param_groups[0]["weight_decay"] = decay
        with torch.autocast("cpu", dtype=torch.bfloat16):
            cells, image = (self._reader.rounded if settles else self._reader)(
                pixel_values[mine], None if kept is None else kept[mine]
            )
        parts = losses(cells, image, None if coverage is None else coverage[mine], labels[mine])
        means = descend(parts, self._reader, self._optimizers, self._schedules)
        self.step += 1
        # At first the average is that of all steps, so that the initial weights do not stay in it.
        weight = max(1 - _KEPT, 1 / (self.step + 1))
        for name, value in self._reader.state_dict().items():
            self.average[name].lerp_(value, weight)
        return means

    def state(self) -> dict[str, Any]:
        """As `Run.state`."""
        return {
            "step": self.step,
            "reader": self._reader.state_dict(),
            "average": self.average,
            "optimizers": [each.state_dict() for each in self._optimizers],
            "schedules": [each.state_dict() for each in self._schedules],
            "rng": self._rng.get_state(),
            "rows": self._rows.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """As `Run.restore`."""
        self.step, self.average = state["step"], state["average"]
        self._reader.load_state_dict(state["reader"])
        for optimizer, its in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(its)
        for schedule, its in zip(self._schedules, state["schedules"], strict=True):
            schedule.load_state_dict(its)
        self._rng.set_state(state["rng"])
        self._rows.restore(state["rows"])

    def _rate(self, step: int) -> float:
        """Share of the learning rate: a warm-up, a constant rate, a linear fall, and a lower rate that falls again."""
        first = _SETTLES * self.steps
        if step >= first:
            return _SETTLING * min(1.0, (step + 1 - first) / _WARM_UP) * (self.steps - step) / (self.steps - first)
        return min(1.0, (step + 1) / _WARM_UP, (first - step) / (self._fall * first))


def _rounded(values: Tensor, most: int, *, rows: bool = False) -> Tensor:
    """Values on a grid of the integers up to `most`, times a scale; their gradient is that of the values themselves.

    Args:
        values: float32.
        most: the integer of the largest magnitude.
        rows: whether the values at each place of the first axis have a scale of their own.
    """
    sizes = values.detach().abs()
    axes = tuple(range(1 if rows else 0, sizes.ndim))
    step = sizes.amax(axes, keepdim=True).clamp_min(1e-8) / most
    return values + ((values / step).round() * step - values).detach()


def rows_with_lesions_repeated(data: Split) -> NDArray[np.int64]:
    """Numbers of all images, those with a lung lesion several times."""
    return np.repeat(np.arange(len(data.images)), np.where(data.labels[:, _LESION], _LESION_DRAWS, 1))


def of_patches(cells: Tensor) -> Tensor:
    """``[B, 7, 28, 28]`` as ``[B, 7, N, 4]``: the cells of each patch."""
    split = cells.reshape(*cells.shape[:2], SIDE, CELLS, SIDE, CELLS)
    return split.transpose(3, 4).flatten(4).flatten(2, 3)


def _half(coverage: Tensor, labels: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Choose half of the patches of each image at random.

    Returns:
        Their numbers ``[B, N/2]``, what findings cover of them ``[B, 7, N/2, 4]``, and the labels of the findings that
        they show. A finding that no patch of the image shows keeps its label.
    """
    count = coverage.shape[2]
    kept = torch.rand(len(coverage), count, generator=rng).argsort(1)[:, : count // 2]
    covered = coverage.take_along_dim(kept[:, None, :, None], 2)
    hidden = (coverage.amax((2, 3)) > 0) & (covered.amax((2, 3)) == 0)
    return kept, covered, labels.masked_fill(hidden, 0)


def losses(cells: Tensor, image: Tensor | None, coverage: Tensor | None, labels: Tensor) -> dict[str, Tensor]:
    """The parts of the loss: CLS and the strongest cells against labels, and all cells against what findings cover.

    Args:
        cells: logits ``[B, 7, N, 4]``.
        image: logits ``[B, 7]``; None without CLS.
        coverage: ``[B, 7, N, 4]``; None without masks.
        labels: ``[B, 7]``, 0 or 1.
    """
    cross_entropy = nn.functional.binary_cross_entropy_with_logits
    strongest = cells.flatten(2).topk(_STRONGEST, dim=-1).values.mean(-1)
    weight = _OF_LABEL.expand_as(labels)
    parts = {"strongest": cross_entropy(strongest, labels, weight=weight) / 2}
    if image is not None:
        parts["image"] = cross_entropy(image, labels, weight=weight)
    if coverage is not None:
        of_cells = cross_entropy(cells, coverage, pos_weight=_POSITIVE[:, None, None], reduction="none")
        parts["cells"] = 4 * (of_cells.mean((0, 2, 3)) * _OF_FINDING).mean()
    return parts


def _optimizers(reader: Reader) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al., 2024) for the matrices of the blocks, AdamW for everything else."""
    named = dict(reader.named_parameters())
    matrices = [each for name, each in named.items() if "encoder.layers" in name and each.ndim == 2]
    decayed = [each for name, each in named.items() if "encoder.layers" not in name and each.ndim > 1]
    others = [each for each in named.values() if each.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    return [
        torch.optim.Muon(matrices, lr=_MATRIX_RATE, weight_decay=_DECAY, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(groups, lr=_RATE, betas=(0.9, 0.98)),
    ]


@reports_errors
@joined()
def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.checkpoint.base", description="Train the base's image tower.")
    parser.add_argument("dataset", type=Path, help="manifest.csv of the phantom data set")
    parser.add_argument("-o", "--output", type=Path, required=True, help="file of the tower's weights")
    parser.add_argument("--split", choices=SPLITS, default="train", help="images of the training")
    parser.add_argument("--pixels", type=int, choices=SIZES, default=SIZES[-1], help="edge of an image in pixels")
    parser.add_argument("--weights", type=Path, help="weights of another run to start from, of as many or fewer pixels")
    parser.add_argument("--stem", type=Path, help="weights of the convolutions, of benchmarks.checkpoint.detail")
    parser.add_argument("--taught-by", choices=("masks", "labels"), default="masks", help="what the tower learns from")
    parser.add_argument("--epochs", type=float, default=5, help="passes through the split")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, order and augmentation")
    options = parser.parse_args()
    if options.stem is not None and options.weights is None:
        raise UsageError(
            "--stem needs --weights", fix="Without weights to start from, all of the tower is trained anew."
        )
    data = read_split(options.dataset, options.split, options.pixels)
    steps = int(options.epochs * len(data.images) / BATCH)
    start = None
    if options.weights is not None:
        start = with_larger_patches(torch.load(options.weights, weights_only=True), options.pixels // SIDE)
        if options.stem is not None:
            stem = torch.load(options.stem, weights_only=True)
            start |= {f"stem.{name}": value for name, value in stem.items()}
    run = BaseRun(data, from_masks=options.taught_by == "masks", steps=steps, seed=options.seed, start=start)
    settings = {"dataset": sha256_of(options.dataset), "taught-by": options.taught_by, "seed": options.seed}
    for name in ("weights", "stem"):
        file = getattr(options, name)
        settings[name] = None if file is None else sha256_of(file)
    run_to_end(run, options.output, {**settings, "split": options.split, "pixels": options.pixels, "steps": steps})
    if place()[0] == 0:
        torch.save(run.tower, options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
