"""Checkpoint folders: our own, and transformers' and open_clip's CLIP."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import CLIPConfig

from lrclr._files import sha256_of
from lrclr.checkpoints import _checkpoint as names
from lrclr.checkpoints._beside import (
    chosen_tokenizer,
    config_from,
    existing,
    read_json,
    tokenizer_beside,
    transformers_recipe,
)
from lrclr.checkpoints._checkpoint import Checkpoint, eval_model
from lrclr.checkpoints._files import read_file, read_shards
from lrclr.checkpoints._find import TRANSFORMERS, Found, find_clip
from lrclr.checkpoints._network import check_consistent, facts_from_options
from lrclr.checkpoints._openai import renamed
from lrclr.checkpoints._state import model_from_state
from lrclr.errors import CheckpointError, LrclrError
from lrclr.model import LEGACY_EOS, LrclrConfig
from lrclr.preprocessing import PreprocessSpec
from lrclr.text import FindingSet, no_tokenizer

if TYPE_CHECKING:
    from lrclr.checkpoints._files import TensorFile
    from lrclr.checkpoints._options import ReadOptions
    from lrclr.text import ClipTokenizer

TRANSFORMERS_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def has_transformers_weights(folder: Path) -> bool:
    """Whether a folder holds weights under the names that transformers gives their files."""
    return any((folder / f"{name}{end}").is_file() for name in TRANSFORMERS_WEIGHTS for end in ("", ".index.json"))


def load_lrclr(folder: Path, raw: dict[str, Any], options: ReadOptions) -> Checkpoint:
    """Read an LRCLR folder, whose `config.json` is `raw`."""
    config = config_from(LrclrConfig, raw, folder)
    weights = existing(folder, names.WEIGHTS)
    found = _found(read_file(weights), config, folder, options)
    model = model_from_state(config, found.state, weights, fusion_expected=True)
    return Checkpoint(
        eval_model(model),
        _tokenizer(folder, config, options),
        _own_recipe(existing(folder, names.PREPROCESSING)),
        FindingSet.load(existing(folder, names.FINDINGS)),
        source="lrclr",
        sha256=sha256_of(weights),
    )


def load_transformers(folder: Path, raw: dict[str, Any], options: ReadOptions) -> Checkpoint:
    """Read a folder of transformers' CLIP, whose `config.json` is `raw`."""
    clip = config_from(CLIPConfig, raw, folder).to_dict()
    text = clip["text_config"]
    tokenizer = _read_tokenizer(folder, text["max_position_embeddings"], options)
    if text.get("eos_token_id") == LEGACY_EOS:
        text["eos_token_id"] = tokenizer.eot_id
        # Where no token was added behind the end, the highest token is the end.
        clip["text_end"] = "eos_token" if tokenizer.vocab_size == tokenizer.eot_id + 1 else "highest_token"
    known = ("projection_dim", "logit_scale_init_value", "text_config", "vision_config", "text_end")
    config = config_from(LrclrConfig, {key: clip[key] for key in known if key in clip}, folder)
    files = weight_files(folder, TRANSFORMERS_WEIGHTS)
    found = _found(read_shards(folder, files), config, folder, options)
    for derived in ("text_model.embeddings.position_ids", "vision_model.embeddings.position_ids"):
        found.state.pop(derived, None)
    model = model_from_state(config, found.state, folder, fusion_expected=False)
    _check_tokenizer(tokenizer, config, folder)
    return Checkpoint(
        eval_model(model),
        tokenizer,
        # A recipe that the caller chose is put in its place afterwards; there may be none in the folder then.
        PreprocessSpec.clip(config.vision_config.image_size)
        if options.get("preprocess")
        else transformers_recipe(folder),
        FindingSet.default(),
        source="transformers clip",
        sha256=digest_of(files),
    )


def weight_files(folder: Path, candidates: tuple[str, ...]) -> list[Path]:
    """The files of weights in a folder: the first of some names that is there, whole or in shards.

    Raises:
        CheckpointError: there is none, or a shard is missing.
    """
    for name in candidates:
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            shards = read_json(index).get("weight_map")
            if not isinstance(shards, dict) or not all(Path(str(name)).name == name for name in shards.values()):
                raise CheckpointError(f"{index} is not an index of weight files")
            return [existing(folder, shard) for shard in sorted(set(shards.values()))]
    raise CheckpointError(f"{folder} holds no weights", fix=f"Expected {' or '.join(candidates)}.")


def digest_of(files: list[Path]) -> str:
    """The hash of a file, or of the list of the hashes of several."""
    digests = [sha256_of(file) for file in files]
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _found(file: TensorFile, config: LrclrConfig, folder: Path, options: ReadOptions) -> Found:
    check_consistent(config, facts_from_options(options.get("heads"), options.get("activation")), folder)
    found = find_clip(file, options.get("key"))
    if found.layout is not TRANSFORMERS:
        return Found(TRANSFORMERS, renamed(found.state), found.modules, found.left_out)
    return found


def _tokenizer(folder: Path, config: LrclrConfig, options: ReadOptions) -> ClipTokenizer:
    tokenizer = _read_tokenizer(folder, config.text_config.max_position_embeddings, options)
    _check_tokenizer(tokenizer, config, folder)
    return tokenizer


def _read_tokenizer(folder: Path, context: int, options: ReadOptions) -> ClipTokenizer:
    tokenizer = chosen_tokenizer(options.get("tokenizer"), context) or tokenizer_beside(folder, context)
    if tokenizer is None:
        raise no_tokenizer(folder)
    return tokenizer


def _check_tokenizer(tokenizer: ClipTokenizer, config: LrclrConfig, folder: Path) -> None:
    text = config.text_config
    if tokenizer.vocab_size > text.vocab_size or text.eos_token_id != tokenizer.eot_id:
        raise CheckpointError(
            f"the tokenizer does not fit the network in {folder}",
            why=f"it has {tokenizer.vocab_size} entries and ends a prompt with {tokenizer.eot_id}; the network has "
            f"{text.vocab_size} and {text.eos_token_id}",
        )


def _own_recipe(file: Path) -> PreprocessSpec:
    try:
        return PreprocessSpec.from_dict(read_json(file))
    except CheckpointError:
        raise
    except LrclrError as error:
        raise CheckpointError(f"{file} cannot be used", why=str(error)) from error
