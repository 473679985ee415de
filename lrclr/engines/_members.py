"""The engines of an ensemble, as one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from lrclr.engines import Engine

__all__ = ["MemberEngines", "engines_of"]


class MemberEngines:
    """An engine for each member of an ensemble. As an engine itself, it runs the graphs of one of them.

    Args:
        members: the engine of each member, in order.
        lead: index of the member whose graphs `run` runs: the one that gives the regions.
        at_once: whether the members may compute at the same time. Engines in this process take turns instead, since
            each uses all cores or the whole GPU.
    """

    def __init__(self, members: Sequence[Engine], lead: int, *, at_once: bool = False) -> None:
        self.members, self.at_once = tuple(members), at_once
        self._lead = self.members[lead]

    @property
    def name(self) -> str:
        return self._lead.name

    def run(self, graph: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return self._lead.run(graph, inputs)


def engines_of(engine: Engine) -> tuple[Engine, ...]:
    """The engine of each member of an ensemble, in order; of a single network the engine itself."""
    members: tuple[Engine, ...] = getattr(engine, "members", (engine,))
    return members
