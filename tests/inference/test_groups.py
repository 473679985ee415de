"""Prompts are divided into groups of similar lengths, by the least number of tokens and calls."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

# Private: only the order of the computation depends on it.
from lrclr.inference._groups import length_groups

if TYPE_CHECKING:
    from collections.abc import Iterable

LENGTHS = st.lists(st.integers(2, 9), min_size=1, max_size=12)
NO_LIMIT = 10**9


def cost(groups: Iterable[list[int]], call: int, beside: int, times: int) -> int:
    """Tokens to compute, and those that the calls take the time of."""
    return sum(call + times * len(group) * (max(group) + beside) for group in groups)


@given(LENGTHS, st.integers(0, 40), st.integers(0, 13), st.integers(1, 3))
def test_no_other_groups_cost_less(lengths: list[int], call: int, beside: int, times: int) -> None:
    numbers = np.array(lengths)
    groups = length_groups(numbers, call=call, most_prompts=NO_LIMIT, most_tokens=NO_LIMIT, beside=beside, times=times)
    assert sorted(np.concatenate(groups).tolist()) == list(range(len(lengths)))
    found = cost((numbers[group].tolist() for group in groups), call, beside, times)
    ordered = sorted(lengths)
    for count in range(len(lengths)):
        for cuts in itertools.combinations(range(1, len(lengths)), count):
            parts = [ordered[start:end] for start, end in itertools.pairwise((0, *cuts, len(lengths)))]
            assert found <= cost(parts, call, beside, times)


@given(LENGTHS, st.integers(0, 40), st.integers(1, 5), st.integers(1, 60), st.integers(0, 13))
def test_groups_keep_the_limits(lengths: list[int], call: int, prompts: int, tokens: int, beside: int) -> None:
    numbers = np.array(lengths)
    groups = length_groups(numbers, call=call, most_prompts=prompts, most_tokens=tokens, beside=beside)
    assert sorted(np.concatenate(groups).tolist()) == list(range(len(lengths)))
    for group in groups:
        assert len(group) <= prompts
        assert len(group) == 1 or len(group) * (numbers[group].max() + beside) <= tokens
        assert numbers[group[-1]] == numbers[group].max()


@pytest.mark.parametrize(("images", "groups"), [(1, 1), (8, 2)])
def test_more_images_are_worth_more_calls(images: int, groups: int) -> None:
    lengths = np.array([4] * 20 + [11] * 6)
    found = length_groups(lengths, call=256, most_prompts=NO_LIMIT, most_tokens=NO_LIMIT, beside=13, times=images)
    assert len(found) == groups
