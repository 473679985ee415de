"""Which groups of layers must stay in float32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Losses = dict[str, float]
_OF_LIMIT = 0.75  # the gates see other images, and an engine rounds otherwise than torch


@dataclass(frozen=True)
class Outcome:
    """Attributes: floats, groups that stay in float32 and why; losses of what is in int8, all together."""

    floats: dict[str, str]
    losses: Losses


def search(
    names: Sequence[str],
    losses: Callable[[set[str]], Losses],
    limits: Mapping[str, float],
    few_losses: Callable[[set[str]], Losses] | None = None,
) -> Outcome:
    """Put as many groups into int8 as the limits allow: all, or all except those with the greatest losses alone.

    Args:
        names: names of the groups.
        losses: function that returns the losses of the network with these groups in int8, by measure.
        limits: limits of the losses.
        few_losses: the same on a few inputs, for the order of the groups, which takes one run for each group; by
            default `losses`.

    Returns:
        An outcome that keeps three quarters of the limits; all groups stay in float32 if no other outcome does.
    """

    def share(found: Losses) -> float:
        """Return the greatest loss as a fraction of its limit."""
        return max(value / limits[name] for name, value in found.items())

    everything = set(names)
    together = losses(everything)
    if share(together) <= _OF_LIMIT:
        return Outcome({}, together)
    alone = {name: share((few_losses or losses)({name})) for name in names}
    order = sorted(names, key=lambda name: alone[name], reverse=True)
    # Bisection: each trial runs the network on all inputs.
    too_few, enough = 0, len(order)
    together = losses(set())
    while enough - too_few > 1:
        count = (too_few + enough) // 2
        found = losses(everything - set(order[:count]))
        if share(found) <= _OF_LIMIT:
            enough, together = count, found
        else:
            too_few = count
    return Outcome({name: f"alone it takes {alone[name]:.0%} of a limit" for name in order[:enough]}, together)
