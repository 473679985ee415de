"""Batches for training and validation. What an item is depends on the seed, the epoch and the row, and on nothing else.

So a run that is resumed sees what the uninterrupted one would have seen, with any number of workers and processes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from lrclr.preprocessing import from_canvas
from lrclr.training._augment import Augmentation, augment
from lrclr.training._texts import draw_text, text_key

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from lrclr.datasets._cache import PixelCache
    from lrclr.preprocessing import PreprocessSpec
    from lrclr.text import ClipTokenizer
    from lrclr.training._settings import TrainSettings

__all__ = ["Draws", "Items", "loader"]

_ORDER, _TEXT, _IMAGE = range(3)


class Draws(Sampler[list[tuple[int, int]]]):
    """The batches of a whole run, from its first step to its last: ``(epoch, position)`` for every item.

    Each epoch goes through the rows in an order of its own and leaves out what does not fill a batch. Of each batch a
    process gets its share.

    Args:
        rows: how many there are.
        batch: items of a step, over all processes.
        steps: of the run.
        seed: of the orders.
        process, processes: which share to give.
    """

    def __init__(self, rows: int, *, batch: int, steps: int, seed: int, process: int = 0, processes: int = 1) -> None:
        self._rows, self._batch, self._steps, self._seed = rows, batch, steps, seed
        share = batch // processes
        self._share = slice(process * share, (process + 1) * share)

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in range(self._steps):
            epoch, place = divmod(step, self._rows // self._batch)
            if place == 0:
                order = np.random.default_rng([self._seed, epoch, _ORDER]).permutation(self._rows)
            batch = order[place * self._batch : (place + 1) * self._batch]
            yield [(epoch, int(row)) for row in batch[self._share]]


class Items(Dataset[dict[str, Any]]):
    """Images with their texts, by ``(epoch, position)``; epoch -1 gives them whole and unchanged, for validation.

    Args:
        pixels: the canvases of the rows.
        texts: whole texts of the rows; "" where there is none.
        spec: the recipe.
        settings: texts, augmentation and seed.
    """

    def __init__(self, pixels: PixelCache, texts: Sequence[str], spec: PreprocessSpec, settings: TrainSettings) -> None:
        self._pixels, self.texts, self._spec = pixels, texts, spec
        self._mode, self._limits, self._seed = settings.text, settings.augmentation, settings.seed

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, draw: tuple[int, int]) -> dict[str, Any]:
        epoch, row = draw
        canvas, text = self._pixels.pixels(row), self.texts[row]
        whole = text
        if epoch >= 0:
            text = draw_text(text, self._mode, np.random.default_rng([self._seed, epoch, _TEXT, row]))
            if self._limits != Augmentation.off():
                canvas = augment(canvas, self._limits, np.random.default_rng([self._seed, epoch, _IMAGE, row]))
        return {"pixels": from_canvas(canvas, self._spec), "text": text, "whole_text": whole}


class _Collator:
    def __init__(self, tokenizer: ClipTokenizer) -> None:
        self._tokenizer = tokenizer

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, Tensor]:
        texts = [item["text"] for item in items]
        tokens = self._tokenizer.encode(texts, truncate=True)
        return {
            "pixel_values": torch.from_numpy(np.stack([item["pixels"] for item in items])),
            "input_ids": torch.from_numpy(tokens.input_ids),
            "attention_mask": torch.from_numpy(tokens.mask),
            # The whole report, because the images of one study are positives of each other whatever was drawn; and what
            # was drawn, because two reports may have it in common.
            "text_key": torch.tensor([[text_key(item["whole_text"]), text_key(item["text"])] for item in items]),
        }


def loader(
    items: Items,
    batches: Sampler[list[tuple[int, int]]] | list[list[tuple[int, int]]],
    tokenizer: ClipTokenizer,
    workers: int,
) -> DataLoader[dict[str, Any]]:
    """Batches as `ContrastiveTask.forward` takes them."""
    return DataLoader(
        items,
        batch_sampler=batches,
        collate_fn=_Collator(tokenizer),
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
    )
