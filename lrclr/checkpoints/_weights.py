"""Which files of a folder hold its weights, and their hash."""

from __future__ import annotations

import hashlib
from pathlib import Path

from lrclr._files import sha256_of
from lrclr.checkpoints._beside import read_json, required_file
from lrclr.errors import CheckpointError

TRANSFORMERS_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
OPEN_CLIP_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


def weight_files(folder: Path, candidates: tuple[str, ...]) -> list[Path]:
    """The files of weights in a folder: the first of some names that is there, whole or in shards.

    Raises:
        CheckpointError: there is none, or a shard is missing.
    """
    for name in candidates:
        if (folder / name).is_file():
            return [folder / name]
        index = folder / index_of(name)
        if index.is_file():
            return [required_file(folder, shard) for shard in shards_of(index)]
    raise CheckpointError(f"{folder} holds no weights", fix=f"Expected {' or '.join(candidates)}.")


def index_of(name: str) -> str:
    """Name of the index beside weights of this name that are in shards."""
    return f"{name}.index.json"


def shards_of(index: Path) -> list[str]:
    """Names of the files of weights that an index lists. They are in the folder of the index.

    Raises:
        CheckpointError: the file is not an index.
    """
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not all(Path(str(name)).name == name for name in shards.values()):
        raise CheckpointError(f"{index} is not an index of weight files")
    return sorted(set(shards.values()))


def digest_of(files: list[Path]) -> str:
    """The hash of a file, or of the list of the hashes of several."""
    digests = [sha256_of(file) for file in files]
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()
