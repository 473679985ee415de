"""What every peer is given, and what it gives back to be timed and compared. NumPy alone, for any environment."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Array = NDArray[Any]
BATCHES = (1, 8, 32)


@dataclass(frozen=True)
class Inputs:
    """The same for everyone.

    Attributes:
        pictures: uint8 ``[N, S, S, 3]``, of the size that the encoder reads, for those who only take pictures.
        pixel_values: float32 ``[N, 3, S, S]``, the same preprocessed.
        padded_ids: int64 ``[P, context length]``.
        ids: int64 ``[P, T]``, the same trimmed to the longest prompt.
        prompts: P texts.
        positive, negative: which prompts speak for and against each of F findings; the mean counts.
        scale: factor on a cosine before the softmax over the two.
    """

    pictures: Array
    pixel_values: Array
    padded_ids: Array
    ids: Array
    prompts: tuple[str, ...]
    positive: tuple[tuple[int, ...], ...]
    negative: tuple[tuple[int, ...], ...]
    scale: float

    def save(self, folder: Path) -> None:
        fields = asdict(self)
        arrays = {name: fields.pop(name) for name in ("pictures", "pixel_values", "padded_ids", "ids")}
        np.savez(folder / "inputs.npz", **arrays)
        (folder / "inputs.json").write_text(json.dumps(fields), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Inputs:
        fields = json.loads((folder / "inputs.json").read_text(encoding="utf-8"))
        fields["prompts"] = tuple(fields["prompts"])
        fields |= {sign: tuple(map(tuple, fields[sign])) for sign in ("positive", "negative")}
        with np.load(folder / "inputs.npz", allow_pickle=False) as arrays:
            return cls(**{name: arrays[name] for name in arrays.files}, **fields)

    def images(self, batch: int) -> Array:
        """`batch` preprocessed images, ``[batch, 3, S, S]``; they repeat when there are not as many."""
        return np.resize(self.pixel_values, (batch, *self.pixel_values.shape[1:]))

    def pair_probabilities(self, logits: Array) -> Array:
        """Scaled cosines ``[B, P]`` to each finding's probability against its own denial, ``[B, F]``."""
        scores = logits.astype(np.float64)
        pro, contra = (
            np.stack([scores[:, list(prompts)].mean(1) for prompts in sign], 1)
            for sign in (self.positive, self.negative)
        )
        return np.asarray(1.0 / (1.0 + np.exp(contra - pro)))


@dataclass(frozen=True)
class Opening:
    """Attributes: folder: the checkpoint in everybody's format; options: of the candidate."""

    folder: Path
    inputs: Inputs
    options: dict[str, str]


def _as_array(result: Any) -> Array:
    return np.asarray(result)


@dataclass(frozen=True)
class Work:
    """Something that can be timed.

    Attributes:
        run: does it for that many images; text work ignores the number.
        array: what `run` gave, as an array that can be compared; not timed.
        batches: the numbers of images that it takes.
    """

    run: Callable[[int], Any]
    array: Callable[[Any], Array] = _as_array
    batches: tuple[int, ...] = BATCHES


# image: [B, D]; text77 (padded) and text (trimmed): [P, D]; answer: [B, F], for prompts whose embeddings are at hand;
# answer-new: the same with prompts that are encoded on the way; regions: [B, R], which patches.
Works = dict[str, Work]
WORKS = ("image", "text77", "text", "answer", "answer-new", "regions")
TEXT = ("text77", "text")


def tower_works(inputs: Inputs, run: Callable[[str, Array], Any]) -> Works:
    """The works of a candidate that has the two towers alone.

    Args:
        inputs: what they read.
        run: a graph, ``"image"`` or ``"text"``, on its input.
    """
    pixels = {batch: inputs.images(batch) for batch in BATCHES}
    return {
        "image": Work(lambda batch: run("image", pixels[batch])),
        "text77": Work(lambda _: run("text", inputs.padded_ids)),
        "text": Work(lambda _: run("text", inputs.ids)),
    }
