"""Tokenizers of BERT's and RoBERTa's kind."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece

from lrclr.checkpoints._beside import TOKENIZER, read_json
from lrclr.errors import CheckpointError
from lrclr.text import ClipTokenizer

if TYPE_CHECKING:
    from pathlib import Path

_SPECIAL: Final = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def bert_tokenizer(folder: Path, context: int, pad_id: int) -> ClipTokenizer:
    """The tokenizer in a folder: ``tokenizer.json``, else BERT's ``vocab.txt``.

    Args:
        folder: folder of the checkpoint.
        context: the most tokens that the text tower reads.
        pad_id: number of padding, by which the tower knows it.

    Raises:
        CheckpointError: there is none, it cannot be read, or it pads with another token.
    """
    if (folder / TOKENIZER).is_file():
        tokenizer = ClipTokenizer.from_file(folder / TOKENIZER, context_length=context, pad_id=pad_id)
        _check_padding(Tokenizer.from_file(str(folder / TOKENIZER)), pad_id, folder)
        return tokenizer
    if (folder / "vocab.txt").is_file():
        return ClipTokenizer(_from_vocabulary(folder), source=str(folder), context_length=context, pad_id=pad_id)
    raise CheckpointError(f"{folder} has no tokenizer", fix=f"Expected {TOKENIZER}, or BERT's vocab.txt.")


def _check_padding(tokenizer: Tokenizer, pad_id: int, folder: Path) -> None:
    known = {name: tokenizer.token_to_id(name) for name in ("[PAD]", "<pad>")}
    if pad_id not in known.values():
        raise CheckpointError(
            f"the tokenizer in {folder} is not that of its network",
            why=f"the network knows padding by the number {pad_id}, and the tokenizer has {known}",
        )


def _from_vocabulary(folder: Path) -> bytes:
    """The ``tokenizer.json`` of a WordPiece vocabulary, as transformers' BERT makes it."""
    settings: dict[str, Any] = {}
    if (folder / "tokenizer_config.json").is_file():
        settings = read_json(folder / "tokenizer_config.json")
    try:
        made = Tokenizer(WordPiece.from_file(str(folder / "vocab.txt"), unk_token=_SPECIAL[1]))
        numbers = {token: made.token_to_id(token) for token in _SPECIAL}
        if None in numbers.values():
            raise ValueError(
                f"its vocabulary lacks {', '.join(name for name, number in numbers.items() if number is None)}"
            )
        made.normalizer = normalizers.BertNormalizer(
            lowercase=bool(settings.get("do_lower_case", True)),
            strip_accents=settings.get("strip_accents"),
            handle_chinese_chars=bool(settings.get("tokenize_chinese_chars", True)),
        )
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        made.add_special_tokens(list(_SPECIAL))
        made.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[(token, numbers[token]) for token in ("[CLS]", "[SEP]")]
        )
        return json.dumps(json.loads(made.to_str()), ensure_ascii=False).encode()
    except Exception as error:
        raise CheckpointError(f"{folder} has a tokenizer that cannot be read", why=str(error)) from error
