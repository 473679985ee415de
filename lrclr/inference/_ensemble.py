"""The answers of an ensemble: the mean of its members' probabilities."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lrclr.inference._results import Answers

Member = TypeVar("Member")
Result = TypeVar("Result")


def averaged(answers: Sequence[Answers], lead: int) -> Answers:
    """Combine the answers of the members of an ensemble; those of a single network are returned unchanged.

    Args:
        answers: answers of each member, for the same images and findings.
        lead: index of the member that gives the regions.

    Returns:
        The mean of the members' probabilities, and their standard deviation. There is no embedding. Scores, regions,
        their importance and the attention to them are those of the lead: a mean of cosines of different spaces, or of
        regions of different networks, has no meaning.
    """
    if len(answers) == 1:
        return answers[0]
    probability = np.stack([each.probability for each in answers]).astype(np.float64)
    return replace(
        answers[lead],
        probability=probability.mean(0).astype(np.float32),
        probability_spread=probability.std(0).astype(np.float32),
        image_embedding=None,
    )


def of_each(members: Sequence[Member], work: Callable[[Member], Result], *, at_once: bool) -> list[Result]:
    """Call a function with each member, one after the other or in a thread for each. Returns the results in order."""
    if not at_once:
        return [work(member) for member in members]
    with ThreadPoolExecutor(len(members), thread_name_prefix="lrclr-member") as pool:
        return list(pool.map(work, members))
