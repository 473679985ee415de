"""The prompt cache returns the encoder's results, and removes the least recently used texts first."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lrclr.inference import PromptCache, PromptFeatures

TEXTS = st.lists(st.sampled_from(["a", "bb", "ccc", "dddd", "eeeee"]), min_size=1, max_size=6).map(tuple)


class Encoder:
    """Features that identify a text and a position in it. As in the classifier, it gets at least two tokens."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []

    def __call__(self, prompts: tuple[str, ...]) -> PromptFeatures:
        self.asked.append(prompts)
        lengths = np.array([len(text) for text in prompts])
        places = np.arange(max(2, lengths.max()))
        mask = (places < lengths[:, None]).astype(np.int64)
        embedding = np.stack([lengths, lengths * 2], 1).astype(np.float32)
        tokens = (mask * (lengths[:, None] * 10 + places))[:, :, None].astype(np.float32)
        return PromptFeatures(embedding, tokens, mask)


@given(st.lists(TEXTS, min_size=1, max_size=8), st.integers(0, 20_000))
def test_cached_features_equal_the_encoders(requested: list[tuple[str, ...]], max_bytes: int) -> None:
    encoder = Encoder()
    cache = PromptCache(encoder, max_bytes=max_bytes)
    for prompts in requested:
        features, expected = cache.features(prompts), Encoder()(prompts)
        assert np.array_equal(features.embedding, expected.embedding)
        assert np.array_equal(features.tokens, expected.tokens)
        assert np.array_equal(features.mask, expected.mask)
        for first, second in ((features.tokens, expected.tokens), (features.mask, expected.mask)):
            assert first.dtype == second.dtype
        assert cache.bytes <= max_bytes
    assert cache.hits + cache.misses == sum(len(prompts) for prompts in requested)
    assert cache.misses == sum(len(prompts) for prompts in encoder.asked)


def test_a_cached_text_is_not_encoded_again() -> None:
    encoder = Encoder()
    cache = PromptCache(encoder)
    cache.features(("a", "bb"))
    cache.features(("bb", "ccc", "bb"))
    cache.features(("a", "ccc"))
    assert encoder.asked == [("a", "bb"), ("ccc",)]


def test_the_least_recently_used_text_is_removed_first() -> None:
    encoder, one_text = Encoder(), PromptCache(Encoder())
    one_text.features(("a",))
    # Space for two texts and for the set of each.
    cache = PromptCache(encoder, max_bytes=2 * one_text.bytes + 500)
    for text in ("a", "bb", "a", "ccc", "a", "dddd", "a", "bb"):
        cache.features((text,))
    assert encoder.asked == [("a",), ("bb",), ("ccc",), ("dddd",), ("bb",)]


def test_the_limit_is_in_bytes_and_not_in_texts() -> None:
    """A few long prompts of a wide encoder fill the cache."""

    def wide(prompts: tuple[str, ...]) -> PromptFeatures:
        tokens = np.zeros((len(prompts), 77, 256), np.float32)
        return PromptFeatures(tokens[:, 0], tokens, np.ones(tokens.shape[:2], np.int64))

    cache = PromptCache(wide, max_bytes=2**20)
    for first in range(0, 200, 4):
        features = cache.features(tuple(f"prompt {number}" for number in range(first, first + 4)))
        assert features.tokens.shape == (4, 77, 256)
        assert 2**19 < cache.bytes <= 2**20 or first == 0
    # A text that is larger than the cache is encoded but not kept.
    assert cache.features(tuple(f"another {number}" for number in range(20))).tokens.shape == (20, 77, 256)
    assert cache.bytes <= 2**20


def test_cached_features_do_not_share_memory_with_the_encoder() -> None:
    encoder = Encoder()
    given: list[PromptFeatures] = []

    def encode(prompts: tuple[str, ...]) -> PromptFeatures:
        given.append(encoder(prompts))
        return given[-1]

    cache = PromptCache(encode)
    for prompts in (("a", "bb"), ("a", "bb")):
        features = cache.features(prompts)
        assert not np.shares_memory(features.tokens, given[0].tokens)
