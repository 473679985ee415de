"""Collects outcomes, which come in any order, and writes them to parts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from lrclr.archive._outcome import Chunk
from lrclr.archive._rows import Part, joined, part_of, part_path, read_part, selected, write_part
from lrclr.errors import ImageLimitError, LrclrError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from lrclr.archive._outcome import Outcome
    from lrclr.archive._plan import PartPlan
    from lrclr.archive._settings import Settings


@dataclass
class _OpenPart:
    """A part of which some chunks are not done.

    Attributes:
        plan: what has to be done.
        chunks: how many chunks it has.
        outcomes: outcomes by number of chunk.
        saved: how many chunks are in the file.
        old: the rows `kept`, `gone` and `known` of `plan`, in this order, as they were before the first write.
    """

    plan: PartPlan
    chunks: int
    outcomes: dict[int, list[Outcome]] = field(default_factory=dict)
    saved: int = 0
    old: Part | None = None


class Collector:
    """Cuts parts into chunks, and writes the outcomes.

    Args:
        folder: folder of the parts.
        findings: names, in the order of the scores.
        settings: settings of the rows.

    Attributes:
        scored: images with a new answer.
        unchanged: images whose old row is still valid by their hash.
        failures: reasons and their counts.
        replaced: rows that were replaced because the image of their name has another content.
        unreadable: images that could not be read now, and whose old row is kept.
        written: parts that were completed and written.
        saved: outcomes that are in the files.
    """

    def __init__(self, folder: Path, findings: Sequence[str], settings: Settings) -> None:
        self._folder, self._findings, self._settings = folder, findings, settings
        self._open: dict[int, _OpenPart] = {}
        self.scored = self.unchanged = self.replaced = self.unreadable = self.written = self.saved = 0
        self.failures: Counter[str] = Counter()

    def chunks(self, plan: PartPlan) -> Iterator[Chunk]:
        """The chunks of a part. A chunk is the tasks of one batch: the same images in every run."""
        numbers = plan.places // self._settings.batch_size
        if plan.tasks:
            self._open[plan.number] = _OpenPart(plan, len(np.unique(numbers)))
        for number, tasks in groupby(zip(numbers.tolist(), plan.tasks, strict=True), key=lambda pair: pair[0]):
            yield Chunk(plan.number, number, tuple(task for _, task in tasks))

    def take(self, chunk: Chunk, outcomes: list[Outcome]) -> None:
        """Keep the outcomes of a chunk, and write its part if they complete it.

        Raises:
            LrclrError: the disk is full or broken; existing parts are unchanged.
        """
        part = self._open.get(chunk.part)
        # Ray repeats the tasks of a lost machine, and some outcomes are here already.
        if part is None or chunk.number in part.outcomes:
            return
        part.outcomes[chunk.number] = outcomes
        self._count(part, outcomes)
        if len(part.outcomes) == part.chunks:
            self.written += self._write(part)
            del self._open[chunk.part]

    def save(self) -> None:
        """Write all outcomes so far, so that an interrupted run loses nothing.

        Raises:
            LrclrError: the disk is full or broken.
        """
        for part in self._open.values():
            if len(part.outcomes) > part.saved:
                self._write(part)

    def check_finished(self) -> None:
        """Raise if a part was not completed."""
        if self._open:
            raise LrclrError(
                f"{len(self._open)} parts were not finished", why="some of their images got no answer", fix="Run again."
            )

    def _count(self, part: _OpenPart, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            kept = _keeps_old_row(part.plan, outcome)
            if not kept and outcome.decoded.item in part.plan.known:
                old = self._old(part).table["sha256"][_place(part.plan, outcome)].as_py()
                self.replaced += old is not None and old != outcome.decoded.sha256
            if outcome.failure is not None and not kept:
                self.failures[outcome.failure.reason] += 1
            elif outcome.scores is not None:
                self.scored += 1
            else:
                self.unreadable += outcome.failure is not None
                self.unchanged += outcome.failure is None
                reason = self._old(part).table["reason"][_place(part.plan, outcome)].as_py()
                if reason is not None:
                    self.failures[reason] += 1

    def _old(self, part: _OpenPart) -> Part:
        """Rows of the file as it was before this run wrote it."""
        if part.old is None:
            path = part_path(self._folder, part.plan.number)
            whole = read_part(path)
            if whole is None:
                raise LrclrError(f"{path} was removed or changed during the run", fix="Run again.")
            part.old = selected(whole, [*part.plan.kept, *part.plan.gone, *part.plan.known.values()])
        return part.old

    def _write(self, part: _OpenPart) -> bool:
        """Write the outcomes so far with the old rows that they do not replace; False if the file has them already."""
        plan = part.plan
        outcomes = [one for number in sorted(part.outcomes) for one in part.outcomes[number]]
        new = [one for one in outcomes if not _keeps_old_row(plan, one)]
        parts = [part_of(new, self._findings, self._settings)] if new else []
        count = len(plan.kept) + len(plan.gone) + len(plan.known)
        changed = bool(new)
        if count:
            old = self._old(part)
            hints, rows = old.hints.copy(), dict.fromkeys(range(count))
            for one in outcomes:
                if one.decoded.item in plan.known:
                    place = _place(plan, one)
                    if not _keeps_old_row(plan, one):
                        del rows[place]
                    elif one.failure is None:
                        hints[place] = one.decoded.hint
            changed = changed or not np.array_equal(hints, old.hints)
            if rows:
                parts.append(selected(Part(old.table, hints, old.settings), list(rows)))
        if changed:
            write_part(part_path(self._folder, plan.number), joined(parts))
        self.saved += sum(len(part.outcomes[number]) for number in list(part.outcomes)[part.saved :])
        part.saved = len(part.outcomes)
        return changed


def _keeps_old_row(plan: PartPlan, outcome: Outcome) -> bool:
    """Whether the old row of an item stays: its content has the same hash, or cannot be read now."""
    if outcome.failure is None:
        return outcome.scores is None
    # A file over the limits has other content than when it was scored.
    unread = outcome.decoded.sha256 is None and outcome.failure.error != ImageLimitError.__name__
    return unread and not outcome.failure.final and outcome.decoded.item in plan.known


def _place(plan: PartPlan, outcome: Outcome) -> int:
    """The row of a known item in `_OpenPart.old`."""
    return len(plan.kept) + len(plan.gone) + plan.known_order[outcome.decoded.item]
