"""Checkpoint folders: our own, and transformers' CLIP."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file
from tokenizers.models import BPE
from transformers import CLIPConfig, CLIPTokenizer

from lrclr._files import sha256_of
from lrclr.checkpoints import _checkpoint as names
from lrclr.checkpoints._checkpoint import Checkpoint, eval_model
from lrclr.checkpoints._openai import read as read_pickle
from lrclr.checkpoints._state import model_from_state
from lrclr.errors import CheckpointError, LrclrError
from lrclr.findings import FindingSet
from lrclr.model import LrclrConfig
from lrclr.preprocess import PreprocessSpec
from lrclr.tokenizer import ClipTokenizer

if TYPE_CHECKING:
    from torch import Tensor

_LEGACY_EOS = 2  # transformers' CLIP configurations from before 2023 name it, and mean "the highest id"


def load(folder: Path) -> Checkpoint:
    """Read an LRCLR folder or a transformers CLIP folder; `config.json` says which it is."""
    raw = _read_json(folder / names.CONFIG)
    kind = raw.get("model_type")
    if kind == "lrclr":
        return _load_lrclr(folder, raw)
    if kind == "clip":
        return _load_clip(folder, raw)
    raise CheckpointError(
        f"{folder} is not a checkpoint that lrclr reads",
        why=f"its {names.CONFIG} has model_type {kind!r}",
        fix="Expected 'lrclr' or 'clip'.",
    )


def _load_lrclr(folder: Path, raw: dict[str, Any]) -> Checkpoint:
    config = _config(LrclrConfig, raw, folder)
    weights = _existing(folder, names.WEIGHTS)
    model = model_from_state(config, _read_safetensors(weights), weights, fusion_expected=True)
    return Checkpoint(
        eval_model(model),
        _tokenizer(folder, config),
        _preprocess(_existing(folder, names.PREPROCESSING), config, transformers=False),
        FindingSet.load(_existing(folder, names.FINDINGS)),
        source="lrclr",
        sha256=sha256_of(weights),
    )


def _load_clip(folder: Path, raw: dict[str, Any]) -> Checkpoint:
    clip = _config(CLIPConfig, raw, folder).to_dict()
    if clip["text_config"].get("eos_token_id") == _LEGACY_EOS:
        clip["text_config"]["eos_token_id"] = clip["text_config"]["vocab_size"] - 1
    known = ("projection_dim", "logit_scale_init_value", "text_config", "vision_config")
    config = _config(LrclrConfig, {key: clip[key] for key in known}, folder)
    files = _weight_files(folder)
    state: dict[str, Tensor] = {}
    for file in files:
        state.update(_read_safetensors(file) if file.suffix == ".safetensors" else read_pickle(file))
    for derived in ("text_model.embeddings.position_ids", "vision_model.embeddings.position_ids"):
        state.pop(derived, None)
    return Checkpoint(
        eval_model(model_from_state(config, state, folder, fusion_expected=False)),
        _tokenizer(folder, config),
        _preprocess(_existing(folder, "preprocessor_config.json"), config, transformers=True),
        FindingSet.default(),
        source="transformers clip",
        sha256=_digest(files),
    )


def _weight_files(folder: Path) -> list[Path]:
    for stem, suffix in (("model", "safetensors"), ("pytorch_model", "bin")):
        if (folder / f"{stem}.{suffix}").is_file():
            return [folder / f"{stem}.{suffix}"]
        index = folder / f"{stem}.{suffix}.index.json"
        if index.is_file():
            shards = _read_json(index).get("weight_map")
            if not isinstance(shards, dict) or not all(Path(str(name)).name == name for name in shards.values()):
                raise CheckpointError(f"{index} is not an index of weight files")
            return [_existing(folder, name) for name in sorted(set(shards.values()))]
    raise CheckpointError(f"{folder} holds no weights", fix="Expected model.safetensors or pytorch_model.bin.")


def _digest(files: list[Path]) -> str:
    digests = [sha256_of(file) for file in files]
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _tokenizer(folder: Path, config: LrclrConfig) -> ClipTokenizer:
    context = config.text_config.max_position_embeddings
    if (folder / names.TOKENIZER).is_file():
        tokenizer = ClipTokenizer.from_file(folder / names.TOKENIZER, context_length=context)
    elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        tokenizer = ClipTokenizer(_from_vocabulary(folder), source=str(folder), context_length=context)
    else:
        raise CheckpointError(
            f"{folder} has no tokenizer", fix="Expected tokenizer.json, or vocab.json and merges.txt."
        )
    if tokenizer.vocab_size > config.text_config.vocab_size or tokenizer.eot_id != config.text_config.eos_token_id:
        raise CheckpointError(
            f"the tokenizer in {folder} is not that of its network",
            why=f"it has {tokenizer.vocab_size} entries and ends a prompt with {tokenizer.eot_id}; the network has "
            f"{config.text_config.vocab_size} and {config.text_config.eos_token_id}",
        )
    return tokenizer


def _from_vocabulary(folder: Path) -> bytes:
    """The ``tokenizer.json`` of a folder that is from before there was one."""
    try:
        vocabulary, merges = BPE.read_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
        backend = CLIPTokenizer(vocab=vocabulary, merges=merges).backend_tokenizer
        return str(backend.to_str()).encode()
    except Exception as error:
        raise CheckpointError(f"{folder} has a tokenizer that cannot be read", why=str(error)) from error


def _preprocess(file: Path, config: LrclrConfig, *, transformers: bool) -> PreprocessSpec:
    raw = _read_json(file)
    try:
        spec = PreprocessSpec.from_transformers(raw) if transformers else PreprocessSpec.from_dict(raw)
    except LrclrError as error:
        raise CheckpointError(f"{file} cannot be used", why=str(error)) from error
    if spec.image_size != config.vision_config.image_size:
        raise CheckpointError(
            f"{file} makes images of {spec.image_size} pixels, the network takes {config.vision_config.image_size}"
        )
    return spec


def _config(cls: Any, raw: dict[str, Any], folder: Path) -> Any:
    try:
        return cls.from_dict(raw)
    except Exception as error:
        # transformers' validators raise types of their own.
        raise CheckpointError(f"{folder / names.CONFIG} cannot be used", why=str(error)) from error


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(file)
    except OSError:
        raise
    except Exception as error:
        raise CheckpointError(f"{file} cannot be read", why="it is truncated, damaged or not safetensors") from error
    return tensors


def _read_json(file: Path) -> dict[str, Any]:
    _existing(file.parent, file.name)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise CheckpointError(f"{file} is not readable JSON") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} holds no JSON object")
    return content


def _existing(folder: Path, name: str) -> Path:
    file = folder / name
    if not os.path.isfile(file):  # noqa: PTH113 - Path.is_file raises on names with null bytes
        raise CheckpointError(f"{folder} has no {name}", fix="Give a whole checkpoint folder.")
    return file
