"""From outcomes, which may come in any order, to parts, each written once it is whole."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from lrclr.archive._outcome import Chunk
from lrclr.archive._rows import Part, joined, part_of, part_path, read_part, selected, write_part
from lrclr.errors import LrclrError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from lrclr.archive._outcome import Outcome
    from lrclr.archive._plan import PartPlan
    from lrclr.archive._settings import Settings

__all__ = ["Collector"]


@dataclass
class _Open:
    """A part of which some chunks are still under way."""

    plan: PartPlan
    chunks: int
    outcomes: dict[int, list[Outcome]] = field(default_factory=dict)


class Collector:
    """Cuts parts into chunks, and puts them together again.

    Args:
        folder: where parts are written.
        findings: names, in the order of the scores.
        settings: of the rows.
        chunk_size: most tasks of a chunk.

    Attributes:
        scored: images that got a new answer.
        unchanged: images whose old row was found to hold by their hash.
        failures: reasons, and how often.
        written: parts.
    """

    def __init__(self, folder: Path, findings: Sequence[str], settings: Settings, *, chunk_size: int) -> None:
        self._folder, self._findings, self._settings = folder, findings, settings
        self._chunk_size = chunk_size
        self._open: dict[int, _Open] = {}
        self.scored = 0
        self.unchanged = 0
        self.written = 0
        self.failures: Counter[str] = Counter()

    def chunks(self, plan: PartPlan) -> Iterator[Chunk]:
        """What has to be done for a part, whose outcomes are waited for from then on."""
        starts = range(0, len(plan.tasks), self._chunk_size)
        if plan.tasks:
            self._open[plan.number] = _Open(plan, len(starts))
        for number, start in enumerate(starts):
            yield Chunk(plan.number, number, plan.tasks[start : start + self._chunk_size])

    def take(self, chunk: Chunk, outcomes: list[Outcome]) -> None:
        """Keep a chunk's outcomes, and write its part if they were the last.

        Raises:
            LrclrError: the disk is full or broken; the parts that are there are whole.
        """
        part = self._open.get(chunk.part)
        # Whoever works through a broken machine's tasks again may hand in what is here already.
        if part is None or chunk.number in part.outcomes:
            return
        part.outcomes[chunk.number] = outcomes
        self._count(part.plan, outcomes)
        if len(part.outcomes) == part.chunks:
            self._write(part)
            del self._open[chunk.part]

    def check_finished(self) -> None:
        """Raise if a part was never completed."""
        if self._open:
            raise LrclrError(
                f"{len(self._open)} parts were not finished", why="some of their images got no answer", fix="Run again."
            )

    def _count(self, plan: PartPlan, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            if outcome.failure is not None:
                self.failures[outcome.failure.reason] += 1
            elif outcome.scores is not None:
                self.scored += 1
            else:
                self.unchanged += 1
        held = [plan.known[one.decoded.item] for one in outcomes if one.failure is None and one.scores is None]
        if held:
            self.failures.update(self._reasons(plan.number, held))

    def _reasons(self, number: int, rows: Sequence[int]) -> list[str]:
        return [reason for reason in self._old(number, rows).table["reason"].to_pylist() if reason is not None]

    def _old(self, number: int, rows: Sequence[int]) -> Part:
        part = read_part(part_path(self._folder, number))
        if part is None:
            raise LrclrError(
                f"{part_path(self._folder, number)} was taken away or changed while the run lasted", fix="Run again."
            )
        return selected(part, rows)

    def _write(self, part: _Open) -> None:
        plan = part.plan
        outcomes = [one for number in sorted(part.outcomes) for one in part.outcomes[number]]
        new = [one for one in outcomes if one.failure is not None or one.scores is not None]
        parts = [part_of(new, self._findings, self._settings)] if new else []
        held = [one for one in outcomes if one.failure is None and one.scores is None]
        rows = [*plan.kept, *plan.gone, *(plan.known[one.decoded.item] for one in held)]
        if rows:
            old = self._old(plan.number, rows)
            hints = old.hints.copy()
            if held:
                hints[len(rows) - len(held) :] = [one.decoded.hint for one in held]
            if not new and np.array_equal(hints, old.hints):
                return
            parts.append(Part(old.table, hints, old.settings))
        write_part(part_path(self._folder, plan.number), joined(parts))
        self.written += 1
