"""From prompts to token numbers.

The vocabulary that is shipped is OpenAI CLIP's: lower-cased, byte-level BPE, 49,408 entries, which CheXzero and every
CLIP checkpoint of OpenAI's line use. Any other ``tokenizer.json`` that marks a text's end, and its beginning unless it
is read without one, will do.

Unlike OpenAI's own tokenizer, this one does not repair mojibake or HTML entities; prompts are written by people who
can see them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from lrclr.errors import CheckpointError, FindingsError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

    from numpy.typing import NDArray
    from tokenizers import Tokenizer

CLIP_CONTEXT_LENGTH: Final = 77
TOKENIZER_FILE: Final = "tokenizer.json"
VOCABULARY_FILES: Final = ("vocab.json", "merges.txt")
# Of SigLIP and of BERT.
OTHER_VOCABULARIES: Final = ("spiece.model", "vocab.txt")
# Whether a vocabulary is lower-cased, and which tokens end and pad a text.
TOKENIZER_SETTINGS: Final = "tokenizer_config.json"
TOKENIZER_FILES: Final = (
    *(TOKENIZER_FILE, TOKENIZER_SETTINGS),
    *(*VOCABULARY_FILES, "added_tokens.json", *OTHER_VOCABULARIES),
)
PAD_ID: Final = 0
MAX_FILE_BYTES: Final = 64 * 2**20
_NO_WORD: Final = "\U0010fffd"  # for private use
# Beginning and end, for a tokenizer.json that has them in its vocabulary but does not add them itself.
KNOWN_MARKERS: Final = (("<|startoftext|>", "<|endoftext|>"), ("<start_of_text>", "<end_of_text>"))


@dataclass(frozen=True)
class TokenBatch:
    """Prompts as the text encoder reads them.

    Attributes:
        input_ids: int64 ``[P, T]``; beginning, if the tokenizer has one, words, end, then padding.
        mask: int64 ``[P, T]``; 1 up to and including the end, then 0.
    """

    input_ids: NDArray[np.int64]
    mask: NDArray[np.int64]


class ClipTokenizer:
    """Turns prompts into token numbers; immutable, and safe to share between threads.

    Made by :meth:`default` or :meth:`from_file`.

    Args:
        data: the bytes of a ``tokenizer.json``.
        source: what to call it in an error.
        context_length: the most tokens that the text encoder reads, markers included.
        has_bos: whether a prompt begins with a marker, as it does for all but SigLIP's text encoder.
        pad_id: number of the token that fills up shorter prompts. It may be that of the end.
        fixed_length: whether every prompt has `context_length` tokens, because the text encoder sees padding.

    Raises:
        CheckpointError: the bytes are not a tokenizer, or do not say which tokens begin and end a text.
        UsageError: the context has no room for the two markers.
    """

    def __init__(
        self,
        data: bytes,
        *,
        source: str,
        context_length: int = CLIP_CONTEXT_LENGTH,
        has_bos: bool = True,
        pad_id: int = PAD_ID,
        fixed_length: bool = False,
    ) -> None:
        if context_length < 2:
            raise UsageError(f"a context of {context_length} tokens has no room for a prompt")
        self._has_bos, self._pad_id, self._fixed_length = has_bos, pad_id, fixed_length
        self._data = data
        self._context_length = context_length
        self._sha256 = hashlib.sha256(data).hexdigest()
        try:
            self._tokenizer, (self._bos_id, self._eot_id), self._vocab_size = _read(data, has_bos=has_bos)
            self._refused = _refused(self._tokenizer, self._bos_id, self._eot_id)
        except BaseException as error:
            if isinstance(error, CheckpointError):
                raise CheckpointError(f"{source}: {error.what}", why=error.why, fix=error.fix) from None
            # A Rust panic arrives as a BaseException of a type that cannot be imported.
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise CheckpointError(
                f"{source} cannot be read as a tokenizer", why=str(error), fix="Give an undamaged tokenizer.json."
            ) from None

    @classmethod
    def default(cls) -> ClipTokenizer:
        """OpenAI CLIP's tokenizer, with a context of 77."""
        return _default()

    @classmethod
    def from_file(
        cls, path: str | PathLike[str], context_length: int = CLIP_CONTEXT_LENGTH, **options: Any
    ) -> ClipTokenizer:
        """The tokenizer in a ``tokenizer.json`` of the ``tokenizers`` library.

        Args:
            path: the file.
            context_length: the most tokens that the text encoder reads, markers included.
            options: ``has_bos``, ``pad_id`` and ``fixed_length`` of the class, as `options` gives them.

        Raises:
            CheckpointError: the file cannot be read, is damaged, or its beginning and end cannot be determined.
            UsageError: the context has no room for the two markers.
        """
        try:
            with Path(path).open("rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read", why=error.strerror) from None
        if len(data) > MAX_FILE_BYTES:
            raise CheckpointError(f"{path} is not a tokenizer", why=f"it is larger than {MAX_FILE_BYTES >> 20} MiB")
        return cls(data, source=str(path), context_length=context_length, **options)

    def with_context_length(self, context_length: int) -> ClipTokenizer:
        """The same tokenizer for a text encoder of another context length."""
        return ClipTokenizer(self._data, source="a tokenizer", context_length=context_length, **self.options)

    @property
    def context_length(self) -> int:
        """The most tokens that the text encoder reads, markers included."""
        return self._context_length

    @property
    def options(self) -> dict[str, Any]:
        """What `from_file` takes beside the file and the context length, in JSON's types."""
        return {"has_bos": self._has_bos, "pad_id": self._pad_id, "fixed_length": self._fixed_length}

    @property
    def has_bos(self) -> bool:
        """Whether a prompt begins with a marker."""
        return self._has_bos

    @property
    def pad_id(self) -> int:
        """Number of the token that fills up shorter prompts."""
        return self._pad_id

    @property
    def fixed_length(self) -> bool:
        """Whether every prompt has `context_length` tokens."""
        return self._fixed_length

    @property
    def reserved(self) -> frozenset[int]:
        """Numbers of tokens that no prompt's words may be."""
        return self._refused

    @property
    def bos_id(self) -> int | None:
        """Number of the token that begins every prompt; None if there is none."""
        return self._bos_id

    @property
    def eot_id(self) -> int:
        """Number of the token that ends every prompt."""
        return self._eot_id

    @property
    def vocab_size(self) -> int:
        """One more than the highest token number: the least rows that an embedding table needs."""
        return self._vocab_size

    @property
    def data(self) -> bytes:
        """The bytes of the tokenizer file."""
        return self._data

    @property
    def sha256(self) -> str:
        """Hash of the tokenizer file's bytes, in hexadecimal."""
        return self._sha256

    def save(self, path: str | PathLike[str]) -> None:
        """Writes the tokenizer file byte for byte as it was read, so that its hash holds."""
        Path(path).write_bytes(self._data)

    def encode(self, texts: Sequence[str], *, truncate: bool = False, length: int | None = None) -> TokenBatch:
        """Token numbers of some prompts.

        Args:
            texts: prompts; an empty one is just beginning and end.
            truncate: cut a prompt that is too long, keeping beginning and end, rather than refuse it.
            length: T; if not given, the longest prompt's, or the context length where prompts have a fixed length.

        Returns:
            ``input_ids`` and ``mask``, int64 ``[P, T]``.

        Raises:
            FindingsError: `prompts` is empty, or one of them is not text, is too long, or contains a special token.
            UsageError: a length that the text encoder cannot read.
        """
        if length is not None and not 2 <= length <= self._context_length:
            raise UsageError(f"prompts cannot have {length} tokens", fix=f"Give 2 to {self._context_length}.")
        if isinstance(texts, str):
            raise FindingsError("prompts must be a list of texts, not one text", fix="Wrap it in a list.")
        if len(texts) == 0:
            raise FindingsError("there are no prompts to encode")
        limit = self._context_length if length is None else length
        rows = [
            # Its place alone names a prompt in an error: the text may be a patient's.
            self._encode_one(text, f"prompt {n} of {len(texts)}", limit, truncate)
            for n, text in enumerate(texts, 1)
        ]
        if length is None:
            length = self._context_length if self._fixed_length else max(map(len, rows))
        input_ids = np.full((len(rows), length), self._pad_id, np.int64)
        mask = np.zeros_like(input_ids)
        for row, ids in enumerate(rows):
            input_ids[row, : len(ids)] = ids
            mask[row, : len(ids)] = 1
        return TokenBatch(input_ids, mask)

    def _encode_one(self, text: str, where: str, limit: int, truncate: bool) -> list[int]:
        if not isinstance(text, str):
            raise FindingsError(f"{where} is not a text but {type(text).__name__}")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise FindingsError(
                f"{where} holds half of a surrogate pair, which is not a character", fix="Decode the text again."
            ) from None
        # One at a time on purpose: encode_batch starts a thread pool, of which some releases warn at every later fork.
        try:
            words = self._tokenizer.encode(text, add_special_tokens=False).ids
        except Exception as error:  # noqa: BLE001  the library raises nothing narrower
            raise FindingsError(f"{where} cannot be encoded", why=str(error)) from None
        # The text encoder finds a prompt's end, or its padding, by its number: a second one would move it.
        if not self._refused.isdisjoint(words):
            raise FindingsError(
                f"{where} holds a beginning or end marker of the tokenizer, or another token with a meaning of its own",
                why="it is spelt out, or a word outside the vocabulary is read as one",
                fix="Remove it.",
            )
        start = [] if self._bos_id is None else [self._bos_id]
        room = limit - len(start) - 1
        if len(words) > room:
            if not truncate:
                raise FindingsError(
                    f"{where} has {len(words) + len(start) + 1} tokens",
                    why=f"at most {limit} are possible, including the beginning and the end",
                    fix="Shorten it.",
                )
            words = words[:room]
        return [*start, *words, self._eot_id]


def has_tokenizer(folder: Path) -> bool:
    """Return whether a folder holds the files of a tokenizer, of any family of networks."""
    sets = ((TOKENIZER_FILE,), VOCABULARY_FILES, *((name,) for name in OTHER_VOCABULARIES))
    return any(all((folder / name).is_file() for name in names) for names in sets)


def no_tokenizer(folder: Path) -> CheckpointError:
    """Return the error for a folder in which `has_tokenizer` finds none."""
    return CheckpointError(
        f"{folder} has no tokenizer",
        why=f"it has neither {TOKENIZER_FILE}, nor {' and '.join(VOCABULARY_FILES)}, nor "
        f"{' or '.join(OTHER_VOCABULARIES)}",
        fix="If the network was trained with the tokenizer of OpenAI's CLIP, add --tokenizer clip; else --tokenizer "
        "FILE, a tokenizer.json.",
    )


@lru_cache(maxsize=1)
def _default() -> ClipTokenizer:
    data = resources.files("lrclr").joinpath("data", "clip_tokenizer.json").read_bytes()
    return ClipTokenizer(data, source="the CLIP tokenizer")


# Reading CLIP's takes 0.1 s, half the time that it takes to open a bundle. A process rarely needs more than two.
@lru_cache(maxsize=2)
def _read(data: bytes, *, has_bos: bool) -> tuple[Tokenizer, tuple[int | None, int], int]:
    """The tokenizer in the bytes of a file, the numbers of beginning and end, and the size of the vocabulary."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_buffer(data)
    # The file may hold the settings of a training run. This module decides on length and padding.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    markers = _markers(tokenizer) if has_bos else (None, _end(tokenizer))
    return tokenizer, markers, max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1


def _end(tokenizer: Tokenizer) -> int:
    """Number of the end, of a tokenizer that puts nothing else around a text."""
    bare, whole = (tokenizer.encode("", add_special_tokens=special).ids for special in (False, True))
    if len(whole) != len(bare) + 1 or whole[:-1] != bare:
        raise CheckpointError(
            "the tokenizer's end-of-text token cannot be determined",
            why=f"it puts {len(whole) - len(bare)} tokens around a text, where one at the end was expected",
            fix="Give the tokenizer that the checkpoint was trained with.",
        )
    return int(whole[-1])


def _refused(tokenizer: Tokenizer, bos: int | None, eot: int) -> frozenset[int]:
    """Numbers that no prompt may hold: the markers, and what is special to the tokenizer but for the unknown word."""
    unknown = _unknown(tokenizer)
    special = {
        number
        for number, token in tokenizer.get_added_tokens_decoder().items()
        if token.special and number not in unknown
    }
    return frozenset(special | {eot} | ({bos} if bos is not None else set()))


def _unknown(tokenizer: Tokenizer) -> set[int]:
    """Numbers that a word outside the vocabulary gets. The library names that token for some kinds of model only."""
    try:
        return {token.id for token in tokenizer.model.tokenize(_NO_WORD)}
    except Exception:  # noqa: BLE001  the library raises nothing narrower
        return set()  # the model refuses such a word


def _markers(tokenizer: Tokenizer) -> tuple[int, int]:
    """Numbers of beginning and end: what the tokenizer puts around a text, else the markers known by name."""
    bare, whole = (tokenizer.encode("", add_special_tokens=special).ids for special in (False, True))
    if whole[1:-1] == bare and len(whole) == len(bare) + 2 and whole[0] != whole[-1]:
        return whole[0], whole[-1]
    why = f"it puts {len(whole) - len(bare)} tokens around a text, where two different ones were expected"
    if whole == bare:
        for bos, eot in KNOWN_MARKERS:
            bos_id, eot_id = tokenizer.token_to_id(bos), tokenizer.token_to_id(eot)
            if bos_id is not None and eot_id is not None:
                return bos_id, eot_id
        why = f"it puts none around a text, and its vocabulary lacks {KNOWN_MARKERS[0][0]} or {KNOWN_MARKERS[0][1]}"
    raise CheckpointError(
        "the tokenizer's beginning-of-text and end-of-text tokens cannot be determined",
        why=why,
        fix="Give the tokenizer.json that the checkpoint was trained with.",
    )
