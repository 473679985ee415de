"""Which part an image belongs to, and what of a part is still to be done."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lrclr.archive._decode import hint_of
from lrclr.archive._outcome import NO_HINT, Hint, Task
from lrclr.archive._rows import part_path, read_part

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from lrclr.archive._settings import Settings
    from lrclr.archive._source import Item, Source

__all__ = ["PartPlan", "Plan"]


@dataclass(frozen=True)
class PartPlan:
    """What is to be done about a part.

    Attributes:
        number: of the part.
        tasks: what has to be looked at, in order.
        kept: rows, of the part that is there, that hold without looking.
        known: rows of it that hold if the content is what it was, by item.
        gone: rows of it whose images are no longer in the source; they are kept.
        failures: reasons in `kept`, and how often.
    """

    number: int
    tasks: tuple[Task, ...]
    kept: tuple[int, ...] = ()
    known: Mapping[Item, int] = field(default_factory=dict)
    gone: tuple[int, ...] = ()
    failures: Counter[str] = field(default_factory=Counter)


class Plan:
    """Splits a source into parts, and compares it with what is there.

    An image's part follows from its name alone, so that images may come later without moving others. Rows of a
    Parquet file that holds the images follow its order instead, because they must be read in it.

    Args:
        source: what shall be scored.
        folder: where the parts are.
        settings: that rows must have been made with.
        recheck: hash every file again, whatever its times say.
    """

    def __init__(self, source: Source, folder: Path, settings: Settings, *, recheck: bool) -> None:
        self._source, self._folder, self._settings, self._recheck = source, folder, settings, recheck
        self._members: defaultdict[int, list[int]] = defaultdict(list)
        for position, item in enumerate(source.items):
            self._members[self._part(position, item)].append(position)

    def numbers(self) -> range:
        """Of all parts."""
        return range(self._settings.parts)

    def part(self, number: int) -> PartPlan:
        """What is to be done about one."""
        members = self._members.get(number, [])
        old = read_part(part_path(self._folder, number))
        if old is None or old.settings != self._settings.digest:
            return PartPlan(number, tuple(self._task(position) for position in members))
        rows = {item: row for row, item in enumerate(old.items())}
        final, hashes, sizes, reasons = (old.table[name].to_pylist() for name in ("final", "sha256", "bytes", "reason"))
        kept: list[int] = []
        known: dict[Item, int] = {}
        tasks: list[Task] = []
        for position in members:
            item = self._source.items[position]
            row = rows.pop(item, None)
            if row is None or not final[row] or (hashes[row] is None and self._source.remote is None):
                tasks.append(self._task(position))
            elif not self._recheck and self._unchanged(item, sizes[row], Hint(*old.hints[row].tolist())):
                kept.append(row)
            else:
                tasks.append(self._task(position)._replace(known=hashes[row]))
                known[item] = row
        failures = Counter(reason for reason in (reasons[row] for row in kept) if reason is not None)
        return PartPlan(number, tuple(tasks), tuple(kept), known, tuple(rows.values()), failures)

    def _part(self, position: int, item: Item) -> int:
        parts = self._settings.parts
        if self._source.container is not None:
            return position * parts // len(self._source.items)
        key = f"{item.name}\0{'' if item.frame is None else item.frame}"
        return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) % parts

    def _task(self, position: int) -> Task:
        return Task(self._source.items[position], None if self._source.container is None else position)

    def _unchanged(self, item: Item, size: int | None, hint: Hint) -> bool:
        if self._source.remote is not None:
            # What has a name there never changes.
            return True
        if hint == NO_HINT:
            return False
        try:
            status = self._source.path(item).stat()
        except (OSError, ValueError):
            return False
        return hint_of(status) == hint and (self._source.container is not None or status.st_size == size)
