"""Which groups of layers must not be quantised."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Losses = dict[str, float]
MOST_FEW_RUNS = 26
"""Most runs on few inputs, which order the groups. It does not depend on the depth of the network."""
_OF_LIMIT = 0.75  # the gates see other images, and an engine rounds otherwise than torch


@dataclass(frozen=True)
class Outcome:
    """Attributes: floats, groups that are not quantised and why; losses of the quantised ones, all together."""

    floats: dict[str, str]
    losses: Losses


@dataclass(frozen=True)
class _Part:
    """Groups that were tried together, and their loss as a fraction of its limit."""

    names: tuple[str, ...]
    share: float


def most_runs(groups: int) -> int:
    """Return the most runs of `search` on all inputs: logarithmic in the number of groups."""
    return 2 + max(0, groups - 1).bit_length()


def search(
    names: Sequence[str],
    losses: Callable[[set[str]], Losses],
    limits: Mapping[str, float],
    few_losses: Callable[[set[str]], Losses] | None = None,
) -> Outcome:
    """Quantise as many groups as the limits allow: all, or all except those with the greatest losses.

    At most `most_runs` runs on all inputs and `MOST_FEW_RUNS` on few inputs are made.

    Args:
        names: names of the groups.
        losses: function that returns the losses of the network with these groups quantised, by measure.
        limits: limits of the losses.
        few_losses: the same on a few inputs, for the order of the groups; by default `losses`.

    Returns:
        An outcome that keeps three quarters of the limits; no group is quantised if no other outcome does.
    """

    def share(found: Losses) -> float:
        """Return the greatest loss as a fraction of its limit."""
        return max(value / limits[name] for name, value in found.items())

    everything = set(names)
    together = losses(everything)
    if share(together) <= _OF_LIMIT:
        return Outcome({}, together)
    few = few_losses or losses
    parts = _ordered(names, lambda some: share(few(some)))
    order = [name for part in parts for name in part.names]
    # Bisection: each trial runs the network on all inputs.
    too_few, enough = 0, len(order)
    while enough - too_few > 1:
        count = (too_few + enough) // 2
        found = losses(everything - set(order[:count]))
        if share(found) <= _OF_LIMIT:
            enough, together = count, found
        else:
            too_few = count
    if enough == len(order):
        together = losses(set())
    why = {name: _why(part) for part in parts for name in part.names}
    return Outcome({name: why[name] for name in order[:enough]}, together)


def _ordered(names: Sequence[str], share: Callable[[set[str]], float]) -> list[_Part]:
    """Return parts of the groups, the greatest loss of a group first.

    If the runs suffice, each group is tried alone. Otherwise the part with the greatest loss is halved, until the runs
    are spent or every part is one group.
    """
    if len(names) <= MOST_FEW_RUNS:
        alone = [_Part((name,), share({name})) for name in names]
        return sorted(alone, key=lambda part: part.share, reverse=True)
    parts, runs = [_Part(tuple(names), 0.0)], 0
    while runs + 2 <= MOST_FEW_RUNS and any(len(part.names) > 1 for part in parts):
        worst = max((part for part in parts if len(part.names) > 1), key=lambda part: part.share)
        middle = len(worst.names) // 2
        halves = (worst.names[:middle], worst.names[middle:])
        parts = [part for part in parts if part is not worst] + [_Part(half, share(set(half))) for half in halves]
        runs += 2
    return sorted(parts, key=lambda part: part.share / len(part.names), reverse=True)


def _why(part: _Part) -> str:
    if len(part.names) == 1:
        return f"alone it takes {part.share:.0%} of a limit"
    return f"with {len(part.names) - 1} others it takes {part.share:.0%} of a limit"
