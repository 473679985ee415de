"""Inputs, and what the PyTorch model makes of them in float32: the reference that a bundle carries."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from lrclr._archive import checked_entries
from lrclr.errors import BundleError

if TYPE_CHECKING:
    import os

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
# Of all arrays, unpacked: some times what the largest network's need.
_MOST_BYTES: Final = 1 << 30


@dataclass(frozen=True)
class Golden:
    """B images and P prompts; the first prompts are those of the bundle's findings, in order.

    Attributes:
        pixel_values: ``[B, 3, H, W]``.
        input_ids: ``[P, T]``.
        text_mask: ``[P, T]``.
        image_embedding, region_tokens, region_index, region_importance: of the image encoder.
        rollout: ``[B, G, N-1]``, importance of every patch (per head, or one row): tells a swap of equals from a fault.
        text_embedding, text_tokens: of the text encoder; tokens after EOT are zero.
        local_score, region_attention: of the fusion head on the above.
        probabilities: ``[B, F]``.
        task_auroc: no axes; see `task_auroc` of the gates, NaN where there is nothing to compare.
    """

    pixel_values: Floats
    input_ids: Ints
    text_mask: Ints
    image_embedding: Floats
    region_tokens: Floats
    region_index: Ints
    region_importance: Floats
    rollout: Floats
    text_embedding: Floats
    text_tokens: Floats
    local_score: Floats
    region_attention: Floats
    probabilities: Floats
    task_auroc: Floats

    def save(self, path: Path) -> None:
        """Write an ``.npz``; the same arrays give the same bytes."""
        np.savez_compressed(path, **{field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Golden:
        """Read what `save` wrote; no pickle in it is ever run."""
        try:
            with Path(path).open("rb") as file:
                checked_entries(file, most_bytes=_MOST_BYTES)
                file.seek(0)
                arrays = np.load(file, allow_pickle=False)
                return cls(**{field.name: arrays[field.name] for field in fields(cls)})
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise BundleError(f"{path} holds no golden inputs and outputs", why="it is damaged") from error
