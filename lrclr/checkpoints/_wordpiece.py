"""Tokenizers of BERT's and RoBERTa's kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece
from transformers import RobertaTokenizer

from lrclr.checkpoints._beside import TOKENIZER, byte_pairs, read_json
from lrclr.checkpoints._cleaning import KINDS, cleaned
from lrclr.errors import CheckpointError
from lrclr.text import ClipTokenizer

_SPECIAL: Final = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def bert_tokenizer(folder: Path, context: int, pad_id: int, clean: str | None = None) -> ClipTokenizer:
    """The tokenizer in a folder: ``tokenizer.json``, else BERT's ``vocab.txt``, else RoBERTa's two files.

    Args:
        folder: folder of the checkpoint.
        context: the most tokens that the text tower reads.
        pad_id: number of padding, by which the tower knows it.
        clean: how open_clip cleans a text; None for a folder of transformers.

    Raises:
        CheckpointError: there is none, it cannot be read, or it pads with another token.
    """
    options: dict[str, Any] = {"context_length": context, "pad_id": pad_id}
    file: ClipTokenizer | None = None
    if (folder / TOKENIZER).is_file():
        file = ClipTokenizer.from_file(folder / TOKENIZER, **options)
        backend = Tokenizer.from_file(str(folder / TOKENIZER))
    elif (folder / "vocab.txt").is_file():
        backend = _from_vocabulary(folder)
    elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        backend = byte_pairs(folder, RobertaTokenizer, add_prefix_space=_settings(folder).get("add_prefix_space"))
    else:
        raise CheckpointError(
            f"{folder} has no tokenizer",
            fix=f"Expected {TOKENIZER}, BERT's vocab.txt, or RoBERTa's vocab.json and merges.txt.",
        )
    _check_padding(backend, pad_id, folder)
    if clean is not None:
        backend = cleaned(backend, KINDS[clean])
    elif file is not None:
        return file
    return ClipTokenizer(backend.to_str().encode(), source=str(folder), **options)


def _settings(folder: Path) -> dict[str, Any]:
    file = folder / "tokenizer_config.json"
    return read_json(file) if file.is_file() else {}


def _check_padding(tokenizer: Tokenizer, pad_id: int, folder: Path) -> None:
    known = {name: tokenizer.token_to_id(name) for name in ("[PAD]", "<pad>")}
    if pad_id not in known.values():
        raise CheckpointError(
            f"the tokenizer in {folder} is not that of its network",
            why=f"the network knows padding by the number {pad_id}, and the tokenizer has {known}",
        )


def _from_vocabulary(folder: Path) -> Tokenizer:
    """The tokenizer of a WordPiece vocabulary, as transformers' BERT makes it."""
    settings = _settings(folder)
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
        return made
    except Exception as error:
        raise CheckpointError(f"{folder} has a tokenizer that cannot be read", why=str(error)) from error
