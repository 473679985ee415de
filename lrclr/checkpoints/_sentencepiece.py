"""SigLIP's tokenizers. A ``tokenizer.json`` of SigLIP 1 alone is not trusted: many leave out how a text is cleaned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import Unigram

from lrclr.checkpoints._beside import TOKENIZER, read_json
from lrclr.checkpoints._cleaning import CANONICAL, KINDS, cleaned
from lrclr.errors import CheckpointError
from lrclr.text import ClipTokenizer

PIECES: Final = "spiece.model"
_MOST_BYTES: Final = 64 << 20


def siglip_tokenizer(folder: Path, context: int, clean: str | None = None) -> ClipTokenizer:
    """The tokenizer of a SigLIP: of version 1 from ``spiece.model``, of version 2 from Gemma's ``tokenizer.json``.

    open_clip's repositories of version 1 hold a ``tokenizer.json`` alone, and their configuration says how a text is
    cleaned.

    Args:
        folder: folder of the checkpoint.
        context: tokens of every prompt.
        clean: how open_clip cleans a text; None for a folder of transformers.

    Raises:
        CheckpointError: there is none, or it cannot be read.
    """
    if (folder / TOKENIZER).is_file() and (clean is not None or not (folder / PIECES).is_file()):
        data, pad = _from_json(folder, clean)
    elif (folder / PIECES).is_file():
        data, pad = _from_pieces(folder, clean)
    else:
        raise CheckpointError(f"{folder} has no tokenizer", fix=f"Expected {PIECES}, or {TOKENIZER} of SigLIP 2.")
    return ClipTokenizer(data, source=str(folder), context_length=context, has_bos=False, pad_id=pad, fixed_length=True)


def siglip_cleaning(folder: Path, clean: str | None = None) -> tuple[Any, ...]:
    """The cleaning of `siglip_tokenizer`, from the same arguments.

    SigLIP 2 was trained on texts in lower case, which not every checkpoint's file says.
    """
    if clean is not None:
        return KINDS[clean]
    return CANONICAL if (folder / PIECES).is_file() else (normalizers.Lowercase(),)


def _from_pieces(folder: Path, clean: str | None) -> tuple[bytes, int]:
    """As ``SiglipTokenizer`` of transformers reads a text, or open_clip with its kind of cleaning."""
    file = folder / PIECES
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise ValueError("it is too large")
        # transformers carries the message's definition; protobuf comes with onnx.
        from transformers.utils.sentencepiece_model_pb2_new import ModelProto

        model: Any = ModelProto()
        model.ParseFromString(file.read_bytes())
        pieces = [(piece.piece, piece.score) for piece in model.pieces]
        if not pieces or model.trainer_spec.model_type != 1:
            raise ValueError("it holds no unigram model")
        end = _settings(folder).get("eos_token", "</s>")
        made = Tokenizer(
            Unigram(pieces, unk_id=model.trainer_spec.unk_id, byte_fallback=model.trainer_spec.byte_fallback)
        )
        cleaning = [*siglip_cleaning(folder, clean)]
        if model.normalizer_spec.precompiled_charsmap:
            cleaning.append(normalizers.Precompiled(model.normalizer_spec.precompiled_charsmap))
        made.normalizer = normalizers.Sequence([*cleaning, normalizers.Replace(Regex(" {2,}"), " ")])
        made.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
        return _ended(made, end), _number(made, _settings(folder).get("pad_token", end))
    except Exception as error:
        raise CheckpointError(f"{file} cannot be read as SigLIP's vocabulary", why=str(error)) from error


def _from_json(folder: Path, clean: str | None) -> tuple[bytes, int]:
    """A ``tokenizer.json`` with the cleaning that its texts need; no marker begins a text."""
    file = folder / TOKENIZER
    raw = read_json(file)
    is_gemma = (raw.get("model") or {}).get("type") == "BPE"
    if clean is None and not is_gemma:
        raise CheckpointError(
            f"{file} is not SigLIP 2's tokenizer",
            why=f"and {folder} has no {PIECES}, from which the tokenizer of SigLIP 1 is made",
            fix=f"Put {PIECES} of the original checkpoint there.",
        )
    try:
        made = cleaned(Tokenizer.from_str(json.dumps(raw)), siglip_cleaning(folder, clean))
        settings = _settings(folder)
        end = settings.get("eos_token", "<eos>" if is_gemma else "</s>")
        return _ended(made, end), _number(made, settings.get("pad_token", "<pad>" if is_gemma else end))
    except Exception as error:
        raise CheckpointError(f"{file} cannot be read as SigLIP's tokenizer", why=str(error)) from error


def _settings(folder: Path) -> dict[str, str]:
    """The special tokens that a ``tokenizer_config.json`` names, if there is one."""
    if not (folder / "tokenizer_config.json").is_file():
        return {}
    raw = read_json(folder / "tokenizer_config.json")
    tokens = {name: raw.get(name) for name in ("eos_token", "pad_token")}
    return {
        name: str(token["content"] if isinstance(token, dict) else token) for name, token in tokens.items() if token
    }


def _number(tokenizer: Tokenizer, token: str) -> int:
    number = tokenizer.token_to_id(token)
    if number is None:
        raise ValueError(f"its vocabulary lacks {token}")
    return int(number)


def _ended(tokenizer: Tokenizer, end: str) -> bytes:
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", special_tokens=[(end, _number(tokenizer, end))]
    )
    return str(tokenizer.to_str()).encode()
