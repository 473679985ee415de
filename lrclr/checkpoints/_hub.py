"""Checkpoints in repositories of the Hugging Face Hub: which of their files are needed.

Only files that a reader of this package reads are downloaded: configurations, tokenizers, and one set of weights. Code,
which repositories may hold too, is neither downloaded nor run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from lrclr.card import CARD
from lrclr.checkpoints import _checkpoint as own
from lrclr.checkpoints._beside import CONFIG, IMAGE_PROCESSOR, OPEN_CLIP, PROCESSOR, read_json
from lrclr.checkpoints._weights import OPEN_CLIP_WEIGHTS, TRANSFORMERS_WEIGHTS, index_of, shards_of
from lrclr.checkpoints.families import layout_of
from lrclr.errors import CheckpointError
from lrclr.hub import open_repository
from lrclr.text import TOKENIZER_FILES

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from lrclr.hub import HubReference, HubRepository

_BESIDE_WEIGHTS: Final = (
    *(CONFIG, OPEN_CLIP, PROCESSOR, IMAGE_PROCESSOR),
    *TOKENIZER_FILES,
    *(own.PREPROCESSING, own.FINDINGS, CARD),
)


def fetch_checkpoint(reference: HubReference) -> HubRepository:
    """Download what `load_checkpoint` reads of a repository, unless the cache of huggingface_hub holds it.

    Returns:
        The repository at its commit. Its folder is a checkpoint folder.

    Raises:
        CheckpointError: it is not a checkpoint that lrclr reads.
        HubError, UsageError, MissingExtraError: as `lrclr.hub.open_repository` and `HubRepository.fetch`.
    """
    repository = open_repository(reference, _BESIDE_WEIGHTS)
    names = repository.names
    if CONFIG not in names and OPEN_CLIP not in names:
        weights = sorted(name for name in names if name.endswith((".pt", ".pth", ".bin", ".safetensors")))
        raise CheckpointError(
            f"{reference} is not a checkpoint folder",
            why=f"it has neither {CONFIG} nor {OPEN_CLIP}",
            fix=f"Download one of its files with `hf download`, and give that file: {', '.join(weights[:3])}."
            if weights
            else "Name a repository that holds a network.",
        )
    candidates = _candidates(repository.folder, names)
    for name in candidates:
        index = index_of(name)
        if name in names:
            repository.fetch([name])
            break
        if index in names:
            repository.fetch([index])
            shards = shards_of(repository.folder / index)
            missing = sorted(set(shards) - names)
            if missing:
                raise CheckpointError(f"{reference} has no {missing[0]}", why=f"its {index} names that file")
            repository.fetch(shards)
            break
    # Without weights, the reader raises the error that it has for a folder on this machine.
    return repository


def _candidates(folder: Path, names: Collection[str]) -> tuple[str, ...]:
    """Names of weights that the reader of this folder takes, in its order; nothing if it refuses the folder."""
    if CONFIG in names and read_json(folder / CONFIG).get("model_type") == "lrclr":
        return (own.WEIGHTS,)
    found = layout_of(folder, names)
    if found is not None and (found[0].has_weights(folder, names) or OPEN_CLIP not in names):
        return found[0].weights
    return (*OPEN_CLIP_WEIGHTS, *TRANSFORMERS_WEIGHTS) if OPEN_CLIP in names else ()
