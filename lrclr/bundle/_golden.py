"""Golden data of a bundle: the inputs of the gates, and the outputs of PyTorch in float32."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lrclr._zip import checked_entries
from lrclr.contract import GRAPHS
from lrclr.errors import BundleError

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
_STORED: Final = "stored_"
_OUTPUTS: Final = (*(name for graph in GRAPHS.values() for name in graph.output_names), "rollout")
# The inputs of the fusion head that are outputs of the encoders stand once.
_TENSORS: Final = tuple(dict.fromkeys((*(name for graph in GRAPHS.values() for name in graph.input_names), *_OUTPUTS)))
# Unpacked size of all arrays: several times that of the largest network.
_MOST_BYTES: Final = 1 << 30


@dataclass(frozen=True)
class Golden:
    """Reference inputs and outputs of the network in float32, for B images and P prompts.

    ``golden[name]`` is a tensor.

    Attributes:
        tensors: inputs and outputs of the three graphs, by their names in `lrclr.contract`. ``length`` is the longest
            prompt that the text encoder reads, tokens after EOT are zero, and the fusion head has every pair of image
            and prompt. Also ``rollout``, ``[B, G, N-1]``: the importance of every patch, per head or in one row. With
            it, gates can tell an exchange of equally important patches from a fault.
        images_sha256: hash of the pixels of `gate_images`, from which ``pixel_values`` were computed.
        findings: names of the bundle's findings.
        prompts: P texts; the first ones are those of the findings, in order.
        probabilities: ``[B, F]``.
        task_auroc: a scalar, see `lrclr.verification.task_auroc`; NaN if the model has none of the findings.
        stored: outputs of the network in float32 with the rounded weights of the graphs, and their ``rollout``; None if
            the graphs store the weights in float32.
    """

    tensors: Mapping[str, NDArray[Any]]
    images_sha256: str
    findings: tuple[str, ...]
    prompts: tuple[str, ...]
    probabilities: Floats
    task_auroc: Floats
    stored: Mapping[str, NDArray[Any]] | None = None

    def __getitem__(self, name: str) -> NDArray[Any]:
        """A tensor by its name."""
        return self.tensors[name]

    @property
    def lengths(self) -> Ints:
        """``[P]``: number of tokens of each prompt, with the tokens for its beginning and end."""
        lengths: Ints = self["text_mask"].sum(1)
        return lengths

    def save(self, path: Path) -> None:
        """Write an ``.npz``; the same arrays give the same bytes."""
        arrays: dict[str, Any] = {
            **{name: self[name] for name in _TENSORS},
            **{_STORED + name: self.stored[name] for name in _OUTPUTS if self.stored is not None},
            "images_sha256": self.images_sha256,
            "findings": self.findings,
            "prompts": self.prompts,
            "probabilities": self.probabilities,
            "task_auroc": self.task_auroc,
        }
        np.savez_compressed(path, **arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Golden:
        """Read a file of `save`. Pickled objects are refused.

        Raises:
            BundleError: the file is damaged.
        """
        try:
            with Path(path).open("rb") as file:
                checked_entries(file, most_bytes=_MOST_BYTES)
                file.seek(0)
                arrays = np.load(file, allow_pickle=False)
                rounded = f"{_STORED}rollout" in arrays
                return cls(
                    tensors={name: arrays[name] for name in _TENSORS},
                    images_sha256=str(arrays["images_sha256"]),
                    findings=tuple(str(text) for text in arrays["findings"].reshape(-1)),
                    prompts=tuple(str(text) for text in arrays["prompts"].reshape(-1)),
                    probabilities=arrays["probabilities"],
                    task_auroc=arrays["task_auroc"],
                    stored={name: arrays[_STORED + name] for name in _OUTPUTS} if rounded else None,
                )
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise BundleError(f"{path} does not hold golden inputs and outputs", why="it is damaged") from error
