"""A cache of the features of prompts, so that each prompt is encoded once."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from sys import getsizeof
from threading import Lock
from typing import TYPE_CHECKING, Final

import numpy as np

from lrclr.budget import CACHE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

# Bytes of an entry in addition to the contents of its arrays.
_ENTRY: Final = 1024


@dataclass(frozen=True)
class PromptFeatures:
    """The text encoder's output for P prompts.

    Attributes:
        embedding: ``[P, D]``, rows of unit length.
        tokens: ``[P, T, D_text]``.
        mask: ``[P, T]``, 1 for a token of the prompt and 0 for padding.
    """

    embedding: NDArray[np.float32]
    tokens: NDArray[np.float32]
    mask: NDArray[np.int64]


class PromptCache:
    """Least-recently-used cache of the features of texts, for one text encoder. Safe to call from several threads.

    The assembled features of whole sets of prompts are kept, too, so that a repeated set costs one look-up.

    Args:
        encode: computes the features of distinct prompts in one pass.
        max_bytes: most bytes of features and texts to keep, of single texts and of sets.

    Attributes:
        hits: texts that were found.
        misses: texts that had to be encoded.
        bytes: size of all entries in bytes.
        max_bytes: most bytes to keep.
    """

    def __init__(self, encode: Callable[[tuple[str, ...]], PromptFeatures], *, max_bytes: int = CACHE_BYTES) -> None:
        self._encode = encode
        self.max_bytes = max_bytes
        self._kept: OrderedDict[str | tuple[str, ...], PromptFeatures] = OrderedDict()
        self._lock = Lock()
        self.hits = 0
        self.misses = 0
        self.bytes = 0

    def features(self, prompts: tuple[str, ...]) -> PromptFeatures:
        """Return the features of prompts, in order. Raises what the encoder raises."""
        with self._lock:
            if prompts in self._kept:
                self._kept.move_to_end(prompts)
                self.hits += len(prompts)
                return self._kept[prompts]
            known = {text: self._kept[text] for text in prompts if text in self._kept}
        missing = tuple(dict.fromkeys(text for text in prompts if text not in known))
        # Without the lock: new prompts of one caller must not delay known prompts of another.
        fresh = self._encode(missing) if missing else None
        if fresh is not None:
            known.update((text, _one_prompt(fresh, row)) for row, text in enumerate(missing))
        # If all prompts were encoded now, the encoder's output has the right layout already.
        whole = fresh is not None and missing == prompts
        features = _copied(fresh) if fresh is not None and whole else _assembled([known[text] for text in prompts])
        with self._lock:
            self.misses += len(missing)
            self.hits += len(prompts) - len(missing)
            for text in prompts:
                self._keep(text, known[text])
            self._keep(prompts, features)
        return features

    def clear(self) -> None:
        """Forget all features. The counts of hits and misses stay."""
        with self._lock:
            self._kept.clear()
            self.bytes = 0

    def _keep(self, key: str | tuple[str, ...], features: PromptFeatures) -> None:
        if key in self._kept:
            self._kept.move_to_end(key)
            return
        size = _size(key, features)
        if size > self.max_bytes:
            return
        self._kept[key] = features
        self.bytes += size
        while self.bytes > self.max_bytes:
            self.bytes -= _size(*self._kept.popitem(last=False))


def _size(key: str | tuple[str, ...], features: PromptFeatures) -> int:
    """Return the bytes of an entry. The texts of a set are counted, too: the set may be their last owner."""
    texts = sum(getsizeof(text) for text in ((key,) if isinstance(key, str) else key))
    return features.embedding.nbytes + features.tokens.nbytes + features.mask.nbytes + texts + _ENTRY


def _copied(features: PromptFeatures) -> PromptFeatures:
    """Copy features. An encoder's output may be in memory that a server shares with another process."""
    return PromptFeatures(features.embedding.copy(), features.tokens.copy(), features.mask.copy())


def _one_prompt(features: PromptFeatures, row: int) -> PromptFeatures:
    """Copy the features of one prompt, without padding."""
    words = max(2, int(features.mask[row].sum()))  # as in the classifier
    one = slice(row, row + 1)
    return PromptFeatures(
        features.embedding[one].copy(), features.tokens[one, :words].copy(), features.mask[one, :words].copy()
    )


def _assembled(features: list[PromptFeatures]) -> PromptFeatures:
    longest = max(one.mask.shape[1] for one in features)

    def padded(array: NDArray[np.generic]) -> NDArray[np.generic]:
        return np.pad(array, [(0, 0), (0, longest - array.shape[1]), *[(0, 0)] * (array.ndim - 2)])

    return PromptFeatures(
        np.concatenate([one.embedding for one in features]),
        np.concatenate([padded(one.tokens) for one in features]).astype(np.float32, copy=False),
        np.concatenate([padded(one.mask) for one in features]).astype(np.int64, copy=False),
    )
