"""Successive halving: many configurations are measured briefly, the better half of them longer, and so on.

K. Jamieson and A. Talwalkar, Non-stochastic best arm identification and hyperparameter optimization (2016). Here the
first round changes one factor at a time, the second one adds combinations of the changes that helped, and the default
stays to the end, so that the gain over it is measured under the same conditions. Nothing here needs a server.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from lrclr.tune._windows import Estimate, Plan

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from lrclr.tune._space import Choice, Space

_LEAST_WINDOW: Final = 0.5
"""Seconds of the shortest window."""
_LONGEST_WINDOW: Final = 10.0
_FEW: Final = 12
"""Configurations whose overhead must fit in the time of two rounds."""
_BEFORE_COMBINED: Final = 3
"""Configurations of the first rung that are measured again before combinations are."""


@dataclass(frozen=True)
class Rung:
    """One round of the search.

    Attributes:
        weight: the time of one configuration, relative to those of other rungs.
        most: largest number of configurations.
        plan: windows of each configuration.
    """

    weight: float
    most: int
    plan: Plan


RUNGS: Final = (
    Rung(1.0, 24, Plan(3, 1, 1.4)),
    Rung(1.4, 8, Plan(3, 1, 1.25)),
    Rung(2.0, 4, Plan(3, 2, 1.15)),
    Rung(3.5, 3, Plan(3, 4, 1.08)),
)


@dataclass
class Standing:
    """A configuration in the search.

    Attributes:
        choice: its levels.
        estimates: by the number of the rung that it was measured in.
    """

    choice: Choice
    estimates: dict[int, Estimate] = field(default_factory=dict)

    @property
    def last(self) -> Estimate:
        """The estimate of the longest measurement."""
        return self.estimates[max(self.estimates)]

    @property
    def key(self) -> tuple[int, tuple[float, float]]:
        """Sorts configurations: those that came further are better, then those with the better last estimate."""
        return max(self.estimates), self.last.key


class Measure(Protocol):
    """Measures a configuration."""

    def __call__(self, choice: Choice, plan: Plan, seconds: float, start: float | None) -> Estimate:
        """Measure.

        Args:
            choice: the configuration.
            plan: number of windows.
            seconds: length of a window.
            start: a rate to begin with; None if none is known.
        """


class Budget:
    """Divides the time that is left among rungs and configurations.

    Args:
        seconds: the whole time.
        overhead: seconds that a configuration takes beside its windows, such as the start of its server.
        now: a clock, in seconds.
    """

    def __init__(self, seconds: float, overhead: float, now: Callable[[], float]) -> None:
        self.now = now
        self._end = now() + seconds
        self._overhead = [overhead]

    @property
    def left(self) -> float:
        """Remaining seconds."""
        return max(0.0, self._end - self.now())

    def divide(self, rungs: Sequence[Rung], count: int) -> tuple[int, float]:
        """Number of configurations that can be measured in the first of `rungs`, at most `count`, and the seconds of a
        window.
        """
        rung = rungs[0]
        here = count * rung.weight
        time = self.left * here / (here + sum(each.most * each.weight for each in rungs[1:]))
        overhead = sum(self._overhead) / len(self._overhead)
        # Some configurations need the further windows of their plan.
        windows = rung.plan.search + 1.5 * rung.plan.repeats
        fitting = int(time / (overhead + windows * _LEAST_WINDOW))
        count = max(min(count, 2), min(count, fitting))
        return count, min(max((time / count - overhead) / windows, _LEAST_WINDOW), _LONGEST_WINDOW)

    def note(self, began: float, estimate: Estimate) -> None:
        """Learn the overhead from a measurement that began at `began` and has just ended."""
        windows = sum(each.seconds for each in estimate.windows)
        self._overhead.append(max(0.0, self.now() - began - windows))


def rungs_for(seconds: float, overhead: float, count: int) -> tuple[Rung, ...]:
    """Rungs of `RUNGS`: as many as leave half of the time for windows, and at least the first and the last one, unless
    there is time for a few configurations only.

    Args:
        seconds: the whole time.
        overhead: seconds that a configuration takes beside its windows.
        count: configurations of the first rung.
    """
    first, *_, last = RUNGS
    for rungs in (RUNGS, (first, RUNGS[1], last)):
        if overhead * (count + sum(each.most for each in rungs[1:])) <= seconds / 2:
            return rungs
    return (first, last) if _FEW * overhead <= seconds else (last,)


def halving(
    space: Space,
    measure: Measure,
    budget: Budget,
    rungs: Sequence[Rung],
    *,
    on_rung: Callable[[int, int, float], None] = lambda _rung, _count, _seconds: None,
    give_up: Callable[[Sequence[Standing]], bool] = lambda _standings: False,
) -> list[Standing]:
    """Search for the configuration with the highest rate.

    Args:
        space: the configurations.
        measure: measures one of them.
        budget: the time.
        rungs: the rounds.
        on_rung: called before a rung with its number, its number of configurations and the seconds of a window.
        give_up: whether to end after the first rung, from what was measured so far.

    Returns:
        All configurations that were measured: those of the last rung first, and the best of each rung first.
    """
    standings: dict[Choice, Standing] = {}
    entering = space.screening()
    for number, rung in enumerate(rungs):
        count, seconds = budget.divide(rungs[number:], min(len(entering), rung.most))
        on_rung(number, count, seconds)
        # The default comes first. If the time is too short for all levels, the last ones are left out.
        for choice in entering[:count]:
            began = budget.now()
            estimate = measure(choice, rung.plan, seconds, _start(choice, standings))
            budget.note(began, estimate)
            standings.setdefault(choice, Standing(choice)).estimates[number] = estimate
        if number == 0 and give_up([*standings.values()]):
            break
        others = [standings[each] for each in entering[:count] if each != space.default]
        others.sort(key=lambda each: each.key, reverse=True)
        better = [each.choice for each in others[: math.ceil(len(others) / 2)]]
        combined = space.combined({each: it.last for each, it in standings.items()}) if number == 0 else []
        entering = [space.default, *better[:_BEFORE_COMBINED], *combined, *better[_BEFORE_COMBINED:]]
    return sorted(standings.values(), key=lambda each: each.key, reverse=True)


def _start(choice: Choice, standings: Mapping[Choice, Standing]) -> float | None:
    """The rate of the configuration in the rung before, else the best rate so far, else the lowest that was tried."""
    if choice in standings and standings[choice].last.rate:
        return standings[choice].last.rate
    best = max((each.last.rate for each in standings.values()), default=0.0)
    windows = [window for each in standings.values() for window in each.last.windows]
    lowest = min((window.offered for window in windows if window.offered), default=None)
    return best or lowest
