"""What every candidate reads, and what it offers to be timed and compared. Needs NumPy alone, in any environment."""

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
    """The inputs of all candidates.

    Attributes:
        pictures: uint8 ``[N, S, S, 3]``, of the size that the encoder reads, for candidates that take pictures only.
        pixel_values: float32 ``[N, 3, S, S]``, the same pictures preprocessed.
        padded_ids: int64 ``[P, context length]``.
        ids: int64 ``[P, T]``, the same prompts trimmed to the longest one.
        prompts: P texts.
        positive, negative: numbers of the prompts for and against each of F findings; their mean counts.
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
        """Write ``inputs.npz`` and ``inputs.json``."""
        fields = asdict(self)
        arrays = {name: fields.pop(name) for name in ("pictures", "pixel_values", "padded_ids", "ids")}
        np.savez(folder / "inputs.npz", **arrays)
        (folder / "inputs.json").write_text(json.dumps(fields), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Inputs:
        """Read what `save` wrote."""
        fields = json.loads((folder / "inputs.json").read_text(encoding="utf-8"))
        fields["prompts"] = tuple(fields["prompts"])
        fields |= {sign: tuple(map(tuple, fields[sign])) for sign in ("positive", "negative")}
        with np.load(folder / "inputs.npz", allow_pickle=False) as arrays:
            return cls(**{name: arrays[name] for name in arrays.files}, **fields)

    def images(self, batch: int) -> Array:
        """`batch` preprocessed images, ``[batch, 3, S, S]``; they repeat if there are fewer."""
        return np.resize(self.pixel_values, (batch, *self.pixel_values.shape[1:]))

    def pair_probabilities(self, logits: Array) -> Array:
        """Probability of each finding against its negation, ``[B, F]``, from scaled cosines ``[B, P]``."""
        scores = logits.astype(np.float64)
        pro, contra = (
            np.stack([scores[:, list(prompts)].mean(1) for prompts in sign], 1)
            for sign in (self.positive, self.negative)
        )
        return np.asarray(1.0 / (1.0 + np.exp(contra - pro)))


@dataclass(frozen=True)
class Opening:
    """What an adapter opens a candidate with.

    Attributes:
        folder: the checkpoint in every format.
        inputs: the common inputs.
        options: options of the candidate, and the number of ``threads``.
    """

    folder: Path
    inputs: Inputs
    options: dict[str, str]


@dataclass(frozen=True)
class Work:
    """Work that can be timed.

    Attributes:
        run: does it for a number of images; work on texts ignores the number.
        array: what `run` returned, as an array that can be compared; not timed.
        batches: the numbers of images that it takes.
    """

    run: Callable[[int], Any]
    array: Callable[[Any], Array] = np.asarray
    batches: tuple[int, ...] = BATCHES


Works = dict[str, Work]
"""Works by name.

- ``image``: images to embeddings ``[B, D]``;
- ``text77``, ``text``: padded or trimmed prompts to embeddings ``[P, D]``;
- ``answer``: images to probabilities ``[B, F]`` with known embeddings of the prompts;
- ``answer-new``: the same, prompts included;
- ``regions``: images to numbers of patches ``[B, R]``.
"""
WORKS = ("image", "text77", "text", "answer", "answer-new", "regions")


def tower_works(inputs: Inputs, run: Callable[[str, Array], Any]) -> Works:
    """The works of a candidate that has the two towers alone.

    Args:
        inputs: what they read.
        run: runs a tower, ``"image"`` or ``"text"``, on its input.
    """
    pixels = {batch: inputs.images(batch) for batch in BATCHES}
    return {
        "image": Work(lambda batch: run("image", pixels[batch])),
        "text77": Work(lambda _: run("text", inputs.padded_ids)),
        "text": Work(lambda _: run("text", inputs.ids)),
    }


def picture_batches(pictures: list[Any]) -> dict[int, list[Any]]:
    """For each number of images that many pictures; they repeat if there are fewer."""
    return {batch: [pictures[number % len(pictures)] for number in range(batch)] for batch in BATCHES}
