"""Golden data of a bundle: the inputs of the gates, and the outputs of PyTorch in float32."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from lrclr._zip import checked_entries
from lrclr.errors import BundleError

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
_STORED: Final = "stored_"
# Unpacked size of all arrays: several times that of the largest network.
_MOST_BYTES: Final = 1 << 30


@dataclass(frozen=True)
class GraphOutputs:
    """Outputs of the three graphs for B images and P prompts.

    Attributes:
        image_embedding, region_tokens, region_index, region_importance: outputs of the image encoder.
        rollout: ``[B, G, N-1]``, importance of every patch, per head or in one row. With it, gates can tell an exchange
            of equally important patches from a fault.
        text_embedding, text_tokens: outputs of the text encoder. Tokens after EOT are zero.
        local_score, region_attention: outputs of the fusion head, for these regions and prompts.
    """

    image_embedding: Floats
    region_tokens: Floats
    region_index: Ints
    region_importance: Floats
    rollout: Floats
    text_embedding: Floats
    text_tokens: Floats
    local_score: Floats
    region_attention: Floats


@dataclass(frozen=True)
class Golden(GraphOutputs):
    """Reference inputs and outputs of the network in float32, for B images and P prompts.

    Attributes:
        images_sha256: hash of the pixels of `gate_images`, from which `pixel_values` were computed.
        findings: names of the bundle's findings.
        prompts: P texts; the first ones are those of the findings, in order.
        pixel_values: ``[B, 3, H, W]``.
        input_ids: ``[P, T]``; T is the longest prompt that the text encoder reads.
        text_mask: ``[P, T]``.
        probabilities: ``[B, F]``.
        task_auroc: a scalar, see `lrclr.verification.task_auroc`; NaN if the model has none of the findings.
        stored: outputs of the network in float32 with the rounded weights of the graphs; None if the graphs store the
            weights in float32.
    """

    images_sha256: str
    findings: tuple[str, ...]
    prompts: tuple[str, ...]
    pixel_values: Floats
    input_ids: Ints
    text_mask: Ints
    probabilities: Floats
    task_auroc: Floats
    stored: GraphOutputs | None = None

    @property
    def lengths(self) -> Ints:
        """``[P]``: number of tokens of each prompt, with the tokens for its beginning and end."""
        lengths: Ints = self.text_mask.sum(1)
        return lengths

    def save(self, path: Path) -> None:
        """Write an ``.npz``; the same arrays give the same bytes."""
        arrays = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "stored"}
        if self.stored is not None:
            arrays |= {_STORED + field.name: getattr(self.stored, field.name) for field in fields(GraphOutputs)}
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
                stored = GraphOutputs(**_outputs(arrays, _STORED)) if f"{_STORED}rollout" in arrays else None
                names = [field.name for field in fields(cls) if field.name != "stored"]
                own: dict[str, Any] = {name: arrays[name] for name in names}
                for name in ("findings", "prompts"):
                    own[name] = tuple(str(text) for text in own[name].reshape(-1))
                own["images_sha256"] = str(own["images_sha256"])
                return cls(**own, stored=stored)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise BundleError(f"{path} does not hold golden inputs and outputs", why="it is damaged") from error


def _outputs(arrays: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {field.name: arrays[prefix + field.name] for field in fields(GraphOutputs)}
