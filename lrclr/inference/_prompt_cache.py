"""Features of prompts, kept: a prompt that was encoded once is not encoded again."""

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

__all__ = ["PromptCache", "PromptFeatures"]

# Of an entry beside its arrays' contents: the arrays themselves, and the place among the entries.
_ENTRY: Final = 1024


@dataclass(frozen=True)
class PromptFeatures:
    """What the text encoder says of P prompts.

    Attributes:
        embedding: ``[P, D]``.
        tokens: ``[P, T, D_text]``.
        mask: ``[P, T]``, 1 for a token of the prompt and 0 for padding.
    """

    embedding: NDArray[np.float32]
    tokens: NDArray[np.float32]
    mask: NDArray[np.int64]


class PromptCache:
    """Keeps the features of each text of one text encoder, the latest used of them. Safe to call from several threads.

    Whole sets are kept too, assembled, so that asking the same again costs a look-up.

    Args:
        encode: from distinct prompts to their features, in one pass.
        max_bytes: of what is kept: features and texts, of single texts and of sets.

    Attributes:
        hits: texts that were here when they were asked for.
        misses: texts that had to be encoded.
        bytes: of what is kept.
    """

    def __init__(self, encode: Callable[[tuple[str, ...]], PromptFeatures], *, max_bytes: int = CACHE_BYTES) -> None:
        self._encode = encode
        self._max_bytes = max_bytes
        self._kept: OrderedDict[str | tuple[str, ...], PromptFeatures] = OrderedDict()
        self._lock = Lock()
        self.hits = 0
        self.misses = 0
        self.bytes = 0

    def features(self, prompts: tuple[str, ...]) -> PromptFeatures:
        """Of these prompts, in order.

        Raises:
            As the encoder.
        """
        with self._lock:
            if prompts in self._kept:
                self._kept.move_to_end(prompts)
                self.hits += len(prompts)
                return self._kept[prompts]
            known = {text: self._kept[text] for text in prompts if text in self._kept}
        missing = tuple(dict.fromkeys(text for text in prompts if text not in known))
        # Not under the lock: one caller's new prompts must not stop another's known ones.
        fresh = self._encode(missing) if missing else None
        if fresh is not None:
            known.update((text, _alone(fresh, row)) for row, text in enumerate(missing))
        # As they came from the encoder, if all did: what is padded to the same length need not be laid out anew.
        whole = fresh is not None and missing == prompts
        features = _own(fresh) if fresh is not None and whole else _together([known[text] for text in prompts])
        with self._lock:
            self.misses += len(missing)
            self.hits += len(prompts) - len(missing)
            for text in prompts:
                self._keep(text, known[text])
            self._keep(prompts, features)
        return features

    def _keep(self, key: str | tuple[str, ...], features: PromptFeatures) -> None:
        if key in self._kept:
            self._kept.move_to_end(key)
            return
        size = _size(key, features)
        if size > self._max_bytes:
            return
        self._kept[key] = features
        self.bytes += size
        while self.bytes > self._max_bytes:
            self.bytes -= _size(*self._kept.popitem(last=False))


def _size(key: str | tuple[str, ...], features: PromptFeatures) -> int:
    """Bytes of an entry; a set's texts are counted with it, for it may be all that still holds them."""
    texts = sum(getsizeof(text) for text in ((key,) if isinstance(key, str) else key))
    return features.embedding.nbytes + features.tokens.nbytes + features.mask.nbytes + texts + _ENTRY


def _own(features: PromptFeatures) -> PromptFeatures:
    """Features in memory of their own: an encoder's may lie in memory that a server shares with another process."""
    return PromptFeatures(features.embedding.copy(), features.tokens.copy(), features.mask.copy())


def _alone(features: PromptFeatures, row: int) -> PromptFeatures:
    """One prompt's features without padding, in memory of their own."""
    words = max(2, int(features.mask[row].sum()))  # as in the classifier
    one = slice(row, row + 1)
    return PromptFeatures(
        features.embedding[one].copy(), features.tokens[one, :words].copy(), features.mask[one, :words].copy()
    )


def _together(features: list[PromptFeatures]) -> PromptFeatures:
    longest = max(one.mask.shape[1] for one in features)

    def padded(array: NDArray[np.generic]) -> NDArray[np.generic]:
        return np.pad(array, [(0, 0), (0, longest - array.shape[1]), *[(0, 0)] * (array.ndim - 2)])

    return PromptFeatures(
        np.concatenate([one.embedding for one in features]),
        np.concatenate([padded(one.tokens) for one in features]).astype(np.float32, copy=False),
        np.concatenate([padded(one.mask) for one in features]).astype(np.int64, copy=False),
    )
