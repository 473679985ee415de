"""Checkpoint folders: our own, and transformers' and open_clip's CLIP."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from transformers import CLIPConfig

from lrclr._files import sha256_of
from lrclr.checkpoints import _checkpoint as names
from lrclr.checkpoints._beside import (
    check_padding,
    chosen_tokenizer,
    config_from,
    read_json,
    required_file,
    tokenizer_beside,
    transformers_recipe,
)
from lrclr.checkpoints._checkpoint import Checkpoint, eval_model
from lrclr.checkpoints._files import read_file, read_shards
from lrclr.checkpoints._find import TRANSFORMERS, Found, find_clip
from lrclr.checkpoints._network import HIGHEST_TOKEN, check_consistent, facts_from_options, text_end
from lrclr.checkpoints._openai import renamed
from lrclr.checkpoints._state import model_from_state
from lrclr.checkpoints._weights import digest_of
from lrclr.errors import CheckpointError, LrclrError
from lrclr.model import LEGACY_EOS, LrclrConfig
from lrclr.preprocessing import PreprocessSpec
from lrclr.text import FindingSet, no_tokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from lrclr.checkpoints._files import TensorFile
    from lrclr.checkpoints._options import ReadOptions
    from lrclr.text import ClipTokenizer


def load_lrclr(folder: Path, raw: dict[str, Any], options: ReadOptions) -> Checkpoint:
    """Read an LRCLR folder, whose `config.json` is `raw`."""
    origin = raw.get(names.ORIGIN, "")
    if not isinstance(origin, str):
        raise CheckpointError(f"{folder / names.CONFIG} cannot be used", why=f"its {names.ORIGIN!r} is not a text")
    config = config_from(LrclrConfig, {key: value for key, value in raw.items() if key != names.ORIGIN}, folder)
    weights = required_file(folder, names.WEIGHTS)
    file = read_file(weights)
    # Names of CLIP's tensors may have been changed by a trainer; those of the other families are read as they are.
    state = _found(file, config, folder, options).state if config.family == "clip" else file.tensors(set(file.entries))
    model = model_from_state(config, state, weights, fusion_expected=True)
    return Checkpoint(
        eval_model(model),
        _tokenizer(folder, config, options),
        _own_recipe(required_file(folder, names.PREPROCESSING)),
        FindingSet.load(required_file(folder, names.FINDINGS)),
        source="lrclr",
        sha256=sha256_of(weights),
        origin=origin,
    )


def load_transformers(folder: Path, raw: Mapping[str, Any], files: list[Path], options: ReadOptions) -> Checkpoint:
    """Read a folder of transformers' CLIP, whose `config.json` is `raw` and whose weights are in `files`."""
    clip = config_from(CLIPConfig, raw, folder).to_dict()
    text = clip["text_config"]
    tokenizer = _read_tokenizer(folder, text["max_position_embeddings"], options)
    if text.get("eos_token_id") == LEGACY_EOS:
        text["eos_token_id"] = tokenizer.eot_id
        clip["text_end"] = text_end([HIGHEST_TOKEN], tokenizer, folder)
        if clip["text_end"] == HIGHEST_TOKEN:
            check_padding(folder, tokenizer)
    known = ("projection_dim", "logit_scale_init_value", "text_config", "vision_config", "text_end")
    config = config_from(LrclrConfig, {key: clip[key] for key in known if key in clip}, folder)
    found = _found(read_shards(folder, files), config, folder, options)
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


def _found(file: TensorFile, config: LrclrConfig, folder: Path, options: ReadOptions) -> Found:
    check_consistent(config, facts_from_options(options.get("heads"), options.get("activation")), folder)
    found = find_clip(file, options.get("key"))
    if found.layout is not TRANSFORMERS:
        return Found(TRANSFORMERS, renamed(found.state), found.modules, found.left_out)
    return found


def _tokenizer(folder: Path, config: LrclrConfig, options: ReadOptions) -> ClipTokenizer:
    tokenizer = _read_tokenizer(folder, config.text_length, options, config.tokenizer_options or {})
    _check_tokenizer(tokenizer, config, folder)
    return tokenizer


def _read_tokenizer(
    folder: Path, context: int, options: ReadOptions, own: Mapping[str, Any] = MappingProxyType({})
) -> ClipTokenizer:
    chosen = chosen_tokenizer(options.get("tokenizer"), context, own)
    tokenizer = chosen or tokenizer_beside(folder, context, own)
    if tokenizer is None:
        raise no_tokenizer(folder)
    return tokenizer


def _check_tokenizer(tokenizer: ClipTokenizer, config: LrclrConfig, folder: Path) -> None:
    text = config.text_config
    # Only a causal text tower looks for the end of a prompt.
    ends_alike = text.eos_token_id == tokenizer.eot_id or config.tokenizer_options is not None
    if tokenizer.vocab_size > text.vocab_size or not ends_alike:
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
