"""The prompt cache gives what its encoder gives, and forgets what was not used for longest."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lrclr.inference import PromptCache, PromptFeatures

TEXTS = st.lists(st.sampled_from(["a", "bb", "ccc", "dddd", "eeeee"]), min_size=1, max_size=6).map(tuple)


class Encoder:
    """Features that identify a text and a place in it. The encoder gets two tokens or more, as in the classifier."""

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
def test_what_comes_out_is_what_the_encoder_says(asked: list[tuple[str, ...]], max_bytes: int) -> None:
    encoder = Encoder()
    cache = PromptCache(encoder, max_bytes=max_bytes)
    for prompts in asked:
        features, expected = cache.features(prompts), Encoder()(prompts)
        assert np.array_equal(features.embedding, expected.embedding)
        assert np.array_equal(features.tokens, expected.tokens)
        assert np.array_equal(features.mask, expected.mask)
        for one, other in ((features.tokens, expected.tokens), (features.mask, expected.mask)):
            assert one.dtype == other.dtype
        assert cache.bytes <= max_bytes
    assert cache.hits + cache.misses == sum(len(prompts) for prompts in asked)
    assert cache.misses == sum(len(prompts) for prompts in encoder.asked)


def test_no_text_is_encoded_twice_while_there_is_room() -> None:
    encoder = Encoder()
    cache = PromptCache(encoder)
    cache.features(("a", "bb"))
    cache.features(("bb", "ccc", "bb"))
    cache.features(("a", "ccc"))
    assert encoder.asked == [("a", "bb"), ("ccc",)]


def test_what_was_not_used_for_longest_goes_first() -> None:
    encoder, one = Encoder(), PromptCache(Encoder())
    one.features(("a",))
    # Room for two texts and for the set of each.
    cache = PromptCache(encoder, max_bytes=2 * one.bytes + 500)
    for text in ("a", "bb", "a", "ccc", "a", "dddd", "a", "bb"):
        cache.features((text,))
    assert encoder.asked == [("a",), ("bb",), ("ccc",), ("dddd",), ("bb",)]


def test_it_holds_bytes_and_not_a_number_of_texts() -> None:
    """Long prompts of a wide encoder: few of them fill the cache, whatever their number."""

    def wide(prompts: tuple[str, ...]) -> PromptFeatures:
        tokens = np.zeros((len(prompts), 77, 256), np.float32)
        return PromptFeatures(tokens[:, 0], tokens, np.ones(tokens.shape[:2], np.int64))

    cache = PromptCache(wide, max_bytes=2**20)
    for first in range(0, 200, 4):
        features = cache.features(tuple(f"prompt {number}" for number in range(first, first + 4)))
        assert features.tokens.shape == (4, 77, 256)
        assert 2**19 < cache.bytes <= 2**20 or first == 0
    # One that is larger than the cache is answered for, and not kept.
    assert cache.features(tuple(f"another {number}" for number in range(20))).tokens.shape == (20, 77, 256)
    assert cache.bytes <= 2**20


def test_nothing_is_kept_in_the_encoders_own_memory() -> None:
    encoder = Encoder()
    given: list[PromptFeatures] = []

    def remembered(prompts: tuple[str, ...]) -> PromptFeatures:
        given.append(encoder(prompts))
        return given[-1]

    cache = PromptCache(remembered)
    for prompts in (("a", "bb"), ("a", "bb")):
        features = cache.features(prompts)
        assert not np.shares_memory(features.tokens, given[0].tokens)
