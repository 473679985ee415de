"""Features of prompts, kept: a prompt that was encoded once is not encoded again."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["PromptCache", "PromptFeatures"]

_Key = TypeVar("_Key")


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
        texts: most texts that are kept.
        sets: most sets that are kept.

    Attributes:
        hits: texts that were here when they were asked for.
        misses: texts that had to be encoded.
    """

    def __init__(
        self, encode: Callable[[tuple[str, ...]], PromptFeatures], *, texts: int = 2048, sets: int = 16
    ) -> None:
        self._encode = encode
        self._most_texts, self._most_sets = texts, sets
        self._texts: OrderedDict[str, PromptFeatures] = OrderedDict()
        self._sets: OrderedDict[tuple[str, ...], PromptFeatures] = OrderedDict()
        self._lock = Lock()
        self.hits = 0
        self.misses = 0

    def features(self, prompts: tuple[str, ...]) -> PromptFeatures:
        """Of these prompts, in order.

        Raises:
            As the encoder.
        """
        with self._lock:
            if prompts in self._sets:
                self._sets.move_to_end(prompts)
                self.hits += len(prompts)
                return self._sets[prompts]
            known = {text: self._texts[text] for text in prompts if text in self._texts}
        missing = tuple(dict.fromkeys(text for text in prompts if text not in known))
        # Not under the lock: one caller's new prompts must not stop another's known ones.
        fresh = self._encode(missing) if missing else None
        if fresh is not None:
            known.update((text, _alone(fresh, row)) for row, text in enumerate(missing))
        # As they came from the encoder, if all did: what is padded to the same length need not be laid out anew.
        features = fresh if fresh is not None and missing == prompts else _together([known[text] for text in prompts])
        with self._lock:
            self.misses += len(missing)
            self.hits += len(prompts) - len(missing)
            for text in prompts:
                _keep(self._texts, text, known[text], self._most_texts)
            _keep(self._sets, prompts, features, self._most_sets)
        return features


def _alone(features: PromptFeatures, row: int) -> PromptFeatures:
    """One prompt's features without padding, in memory of their own."""
    words = int(features.mask[row].sum())
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


def _keep(kept: OrderedDict[_Key, PromptFeatures], key: _Key, features: PromptFeatures, most: int) -> None:
    kept[key] = features
    kept.move_to_end(key)
    while len(kept) > most:
        kept.popitem(last=False)
