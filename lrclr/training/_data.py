"""Batches for training and validation. An item depends on the seed, the epoch and the row only.

A resumed run therefore has the same batches as an uninterrupted one, with any number of workers and processes.
"""

from __future__ import annotations

import signal
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

_ORDER, _TEXT, _IMAGE = range(3)


class Draws(Sampler[list[tuple[int, int]]]):
    """The batches of a whole run: ``(epoch, position)`` of every item. Each process gets its share of a batch.

    Each epoch has another order of the rows, and leaves out those that do not fill a batch.

    Args:
        rows: number of rows.
        batch: items of a step, over all processes.
        steps: steps of the run.
        seed: seed of the orders.
        process, processes: number of this process, and of all.
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
    """Images with their texts, by ``(epoch, position)``. Epoch -1 gives them complete and unchanged, for validation.

    Args:
        pixels: the canvases of the rows.
        texts: texts of the rows; "" for rows without one.
        spec: the preprocessing.
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
            # Keys of the report, since images of one study are positives of each other, and of the drawn sentences,
            # which two reports may share.
            "text_key": torch.tensor([[text_key(item["whole_text"]), text_key(item["text"])] for item in items]),
        }


def _leave_signals(_worker: int) -> None:
    """Let the training process end its workers. Ctrl-C in a terminal goes to all of them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def loader(
    items: Items,
    batches: Sampler[list[tuple[int, int]]] | list[list[tuple[int, int]]],
    tokenizer: ClipTokenizer,
    workers: int,
) -> DataLoader[dict[str, Any]]:
    """Batches for `ContrastiveTask.forward`."""
    return DataLoader(
        items,
        batch_sampler=batches,
        collate_fn=_Collator(tokenizer),
        num_workers=workers,
        worker_init_fn=_leave_signals,
        pin_memory=torch.cuda.is_available(),
    )
