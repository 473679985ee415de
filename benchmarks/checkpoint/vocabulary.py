"""The tokenizer of the default checkpoint: lower-cased, byte-level BPE, learnt from the phantom's reports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from lrclr.text import ClipTokenizer, FindingSet

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["BEGIN", "END", "learn_tokenizer"]

BEGIN, END, PAD = "<|startoftext|>", "<|endoftext|>", "<|pad|>"
_SIZE = 768
# Usual words of users' prompts that the phantom's reports lack. Without them the tokenizer would split them into bytes.
_OTHER_WORDS = "chest x-ray radiograph image of a patient with shows showing has have are not absent present abnormal"


def learn_tokenizer(reports: Iterable[str], *, context_length: int) -> ClipTokenizer:
    """Learn a tokenizer for texts like `reports`. It splits other words into smaller pieces, down to single bytes.

    The same reports give the same tokenizer.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip(), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Punctuation(),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_SIZE,
        special_tokens=[PAD, BEGIN, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    names = " ".join(FindingSet.default().names)
    tokenizer.train_from_iterator([*reports, *[f"{names} {_OTHER_WORDS}"] * 20], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A {END}",
        special_tokens=[(mark, tokenizer.token_to_id(mark)) for mark in (BEGIN, END)],
    )
    return ClipTokenizer(tokenizer.to_str().encode(), source="the learnt tokenizer", context_length=context_length)
