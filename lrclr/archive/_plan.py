"""Plans a run: the part of each image, and what remains to be done for each part."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from lrclr.archive._decode import hint_of
from lrclr.archive._outcome import NO_HINT, Hint, Task
from lrclr.archive._rows import part_path, read_part

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from lrclr.archive._settings import Settings
    from lrclr.archive._source import Item, Source


@dataclass(frozen=True)
class PartPlan:
    """What has to be done for a part.

    Attributes:
        number: number of the part.
        tasks: images to look at, in order.
        places: position of each task among all images of the part, int64 ``[tasks]``.
        kept: rows of the existing file that are valid by size and times.
        known: for each item, its rows that are valid if the content has not changed.
        gone: rows of it whose images are no longer in the source; they are kept.
        failures: reasons in `kept` and their counts.
        damaged: whether there is a file that is damaged.
    """

    number: int
    tasks: tuple[Task, ...]
    places: np.ndarray[Any, np.dtype[np.int64]]
    kept: tuple[int, ...] = ()
    known: Mapping[Item, int] = field(default_factory=dict)
    gone: tuple[int, ...] = ()
    failures: Counter[str] = field(default_factory=Counter)
    damaged: bool = False

    @cached_property
    def known_order(self) -> dict[Item, int]:
        """Position of each item in `known`."""
        return {item: place for place, item in enumerate(self.known)}


class Plan:
    """Divides a source into parts, and compares it with the existing rows.

    The name of an image decides its part, so that images that come later do not move others. Rows of a Parquet file
    that holds the images are divided in their order instead, in which they are read.

    Args:
        source: what to score.
        folder: folder of the parts.
        settings: settings that valid rows were made with.
        recheck: hash every file again, even if its times have not changed.
    """

    def __init__(self, source: Source, folder: Path, settings: Settings, *, recheck: bool) -> None:
        self._source, self._folder, self._settings, self._recheck = source, folder, settings, recheck
        self._members: defaultdict[int, list[int]] = defaultdict(list)
        for position, item in enumerate(source.items):
            self._members[self._part(position, item)].append(position)

    def numbers(self) -> range:
        """Numbers of all parts."""
        return range(self._settings.parts)

    def part(self, number: int) -> PartPlan:
        """The plan of one part.

        Raises:
            LrclrError: its file cannot be read.
        """
        members = self._members.get(number, [])
        path = part_path(self._folder, number)
        old = read_part(path)
        if old is None or old.settings != self._settings.digest:
            tasks = tuple(self._task(position) for position in members)
            return PartPlan(number, tasks, np.arange(len(tasks)), damaged=old is None and path.exists())
        rows = {item: row for row, item in enumerate(old.items())}
        final, hashes, sizes, reasons = (old.table[name].to_pylist() for name in ("final", "sha256", "bytes", "reason"))
        kept: list[int] = []
        known: dict[Item, int] = {}
        todo: list[tuple[int, Task]] = []
        for place, position in enumerate(members):
            item = self._source.items[position]
            row = rows.pop(item, None)
            if row is None or not final[row] or (hashes[row] is None and self._source.remote is None):
                todo.append((place, self._task(position)))
            elif not self._recheck and self._unchanged(item, sizes[row], Hint(*old.hints[row].tolist())):
                kept.append(row)
            else:
                todo.append((place, self._task(position)._replace(known=hashes[row])))
                known[item] = row
        failures = Counter(reason for reason in (reasons[row] for row in kept) if reason is not None)
        places = np.array([place for place, _ in todo], np.int64)
        tasks = tuple(task for _, task in todo)
        return PartPlan(number, tasks, places, tuple(kept), known, tuple(rows.values()), failures)

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
