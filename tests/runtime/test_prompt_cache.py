"""The prompt cache gives what its encoder gives, and forgets what was not used for longest."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lrclr.prompt_cache import PromptCache, PromptFeatures

TEXTS = st.lists(st.sampled_from(["a", "bb", "ccc", "dddd", "eeeee"]), min_size=1, max_size=6).map(tuple)


class Encoder:
    """Features that tell which text and which place they belong to; as long as the longest prompt, as ours."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []

    def __call__(self, prompts: tuple[str, ...]) -> PromptFeatures:
        self.asked.append(prompts)
        lengths = np.array([len(text) for text in prompts])
        mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
        embedding = np.stack([lengths, lengths * 2], 1).astype(np.float32)
        tokens = (mask * (lengths[:, None] * 10 + np.arange(lengths.max())))[:, :, None].astype(np.float32)
        return PromptFeatures(embedding, tokens, mask)


@given(st.lists(TEXTS, min_size=1, max_size=8), st.integers(1, 4), st.integers(1, 3))
def test_what_comes_out_is_what_the_encoder_says(asked: list[tuple[str, ...]], texts: int, sets: int) -> None:
    encoder = Encoder()
    cache = PromptCache(encoder, texts=texts, sets=sets)
    for prompts in asked:
        features, expected = cache.features(prompts), Encoder()(prompts)
        assert np.array_equal(features.embedding, expected.embedding)
        assert np.array_equal(features.tokens, expected.tokens)
        assert np.array_equal(features.mask, expected.mask)
        for one, other in ((features.tokens, expected.tokens), (features.mask, expected.mask)):
            assert one.dtype == other.dtype
    assert cache.hits + cache.misses == sum(len(prompts) for prompts in asked)
    assert cache.misses == sum(len(prompts) for prompts in encoder.asked)


def test_no_text_is_encoded_twice_while_there_is_room() -> None:
    encoder = Encoder()
    cache = PromptCache(encoder)
    cache.features(("a", "bb"))
    cache.features(("bb", "ccc", "bb"))
    cache.features(("a", "ccc"))
    assert encoder.asked == [("a", "bb"), ("ccc",)]


def test_the_text_that_was_not_used_for_longest_goes_first() -> None:
    encoder = Encoder()
    cache = PromptCache(encoder, texts=2, sets=1)
    for text in ("a", "bb", "a", "ccc", "a", "bb"):
        cache.features((text,))
    assert encoder.asked == [("a",), ("bb",), ("ccc",), ("bb",)]
