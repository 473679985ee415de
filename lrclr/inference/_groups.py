"""Groups of prompts of similar lengths, so that little padding is computed."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def length_groups(
    lengths: NDArray[np.int64], *, call: int, most_prompts: int, most_tokens: int, beside: int = 0, times: int = 1
) -> tuple[NDArray[np.int64], ...]:
    """Divide prompts into groups that are padded to their longest prompt, so that all calls take the least time.

    Args:
        lengths: ``[P]``, number of tokens of each prompt.
        call: number of tokens whose computation takes as long as a call.
        most_prompts: largest number of prompts of a group.
        most_tokens: largest number of tokens of a group, unless it is a single prompt.
        beside: tokens that each prompt has in addition.
        times: how often each token is computed.

    Returns:
        The numbers of the prompts of each group, by their lengths. Every prompt is in one group.
    """
    key = np.ascontiguousarray(lengths, np.int64).tobytes()
    return _groups(key, call, most_prompts, most_tokens, beside, times)


@lru_cache(maxsize=32)
def _groups(
    key: bytes, call: int, most_prompts: int, most_tokens: int, beside: int, times: int
) -> tuple[NDArray[np.int64], ...]:
    lengths = np.frombuffer(key, np.int64)
    order = np.argsort(lengths, kind="stable")
    different, starts = np.unique(lengths[order], return_index=True)
    ends = [*starts[1:].tolist(), len(order)]
    # The least cost of the prompts up to each length, and where the last group of them starts.
    best, first = [0], [0]
    for last, (length, end) in enumerate(zip(different.tolist(), ends, strict=True)):
        costs = [
            best[start] + call + times * (end - int(starts[start])) * (length + beside) for start in range(last + 1)
        ]
        first.append(int(np.argmin(costs)))
        best.append(min(costs))
    groups: list[NDArray[np.int64]] = []
    last = len(different)
    while last:
        rows = order[starts[first[last]] : ends[last - 1]]
        step = max(1, min(most_prompts, most_tokens // (int(different[last - 1]) + beside)))
        groups[:0] = [rows[start : start + step] for start in range(0, len(rows), step)]
        last = first[last]
    return tuple(groups)
