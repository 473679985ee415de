"""Measures candidates in turns: one works, the others wait. Every round is kept in a file.

All candidates together do not fit in memory, so they come in groups. Every group has the baseline and the best of lrclr
in it, so that each ratio is one of neighbours in time. A group that was interrupted continues where it stopped.
"""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.peers.catalogue import BASELINE
from benchmarks.peers.client import PeerError, Worker
from benchmarks.peers.quality import quality, wrong
from benchmarks.peers.works import WORKS
from lrclr._files import write_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from benchmarks.peers.catalogue import Candidate
    from benchmarks.peers.works import Array

PAUSE = 0.03
"""Seconds between two candidates: threads of one runtime may spin for a moment after its answer."""

Three = tuple[float, float, float]


@dataclass(frozen=True)
class Plan:
    """How a group is measured.

    Attributes:
        rounds: for each work at each number of images: ``{"image/1": 20, ...}``.
        threads: threads of every candidate.
        build: folder of environments, weights and logs.
    """

    rounds: dict[str, int]
    threads: int
    build: Path

    @property
    def environments(self) -> Path:
        """Folder of the environments."""
        return self.build / "env"

    def folder(self, checkpoint: str) -> Path:
        """Folder of a checkpoint in every format."""
        return self.build / "weights" / checkpoint

    def log(self, name: str) -> Path:
        """File for the output of a candidate."""
        (self.build / "logs").mkdir(parents=True, exist_ok=True)
        return self.build / "logs" / f"{''.join(c if c.isalnum() else '-' for c in name)}.log"


@dataclass
class Group:
    """Measurements of some candidates, kept in a file.

    Attributes:
        key: all that the measurements depend on; with another key a group starts anew.
        rounds: for each work, the seconds of each candidate in each round.
        failed: the error of a candidate that could not be opened, by its name, or at one work, by ``"NAME: WORK"``.
        quality: see `quality`, by candidate.
        peak_mb, idle_share: by candidate.
        finished: whether all rounds are there.
    """

    key: dict[str, Any]
    rounds: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    quality: dict[str, dict[str, float]] = field(default_factory=dict)
    peak_mb: dict[str, int] = field(default_factory=dict)
    idle_share: dict[str, float] = field(default_factory=dict)
    finished: bool = False

    @classmethod
    def load(cls, file: Path, key: dict[str, Any]) -> Group:
        """The group in the file if it has this key, else an empty one."""
        if file.is_file():
            content = json.loads(file.read_text(encoding="utf-8"))
            if content["key"] == key:
                return cls(**content)
        return cls(key)

    def save(self, file: Path) -> None:
        """Write the group to the file, as a whole."""
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, (json.dumps(self.__dict__, indent=1) + "\n").encode())

    def ratio(self, slower: str, faster: str, work: str) -> Three | None:
        """How many times as fast the second is as the first, round by round: median and quartiles; None if unknown."""
        pairs = [(one[slower], one[faster]) for one in self.rounds.get(work, []) if slower in one and faster in one]
        if not pairs:
            return None
        middle, low, high = np.percentile([a / b for a, b in pairs], (50, 25, 75))
        return float(middle), float(low), float(high)

    def seconds(self, name: str, work: str) -> list[float]:
        """Seconds of each round of a candidate."""
        return [one[name] for one in self.rounds.get(work, []) if name in one]


def measure(
    group: Group,
    file: Path,
    candidates: Sequence[Candidate],
    plan: Plan,
    *,
    note: Callable[[str], None] = print,
    until: float = float("inf"),
) -> bool:
    """Measure the rounds that a group lacks.

    Args:
        group: what was measured before.
        file: where it is kept.
        candidates: the baseline and others.
        plan: numbers of rounds, and folders.
        note: called with a line about the progress.
        until: time (`time.monotonic`) after which no new round begins.

    Returns:
        Whether the group is finished.
    """
    if group.finished:
        return True
    with ExitStack() as stack:
        workers: list[Worker] = []
        for candidate in candidates:
            if time.monotonic() > until:
                return False
            try:
                workers.append(stack.enter_context(Worker(candidate, plan, group.key["checkpoint"])))
                group.failed.pop(candidate.name, None)
            except PeerError as error:
                group.failed[candidate.name] = error.why or str(error)
                note(f"{candidate.name}: {group.failed[candidate.name]}")
        _compare_answers(group, workers, plan, note)
        group.save(file)
        for work, rounds in plan.rounds.items():
            taken = group.rounds.setdefault(work, [])
            active = [worker for worker in workers if worker.offers(*_name_and_batch(work))]
            if any(worker.name != BASELINE for worker in active):
                active = _warm_up(group, active, work)
            if all(worker.name == BASELINE for worker in active):
                continue
            while len(taken) < rounds:
                if time.monotonic() > until:
                    return False
                taken.append(_round(group, active, workers, work, len(taken)))
                group.save(file)
        for worker in workers:
            group.idle_share[worker.name] = round(worker.idle_cpu / max(worker.idle_seconds, 1e-9), 4)
    group.finished = True
    group.save(file)
    return True


def _compare_answers(group: Group, workers: Iterable[Worker], plan: Plan, note: Callable[[str], None]) -> None:
    reference: dict[str, Array] = dict(np.load(plan.folder(group.key["checkpoint"]) / "reference.npz"))
    wanted = {_name_and_batch(work)[0] for work in plan.rounds} | {"regions"}
    for worker in workers:
        answers: dict[str, Array] = {}
        for work in (work for work in WORKS if work in worker.works and work in wanted):
            try:
                batch = 8 if 8 in worker.works[work] else 1
                answers[work], group.peak_mb[worker.name] = worker.answer(work, batch)
            except PeerError as error:
                _note_failure(group, worker, work, error)
                note(f"{worker.name}: {work}: {error.why}")
        group.quality[worker.name] = quality(answers, reference)
        for fault in wrong(group.quality[worker.name]):
            note(f"{worker.name} is WRONG: {fault}")


def _name_and_batch(work: str) -> tuple[str, int]:
    name, _, batch = work.partition("/")
    return name, int(batch)


def _note_failure(group: Group, worker: Worker, work: str, error: PeerError) -> None:
    group.failed[f"{worker.name}: {work}"] = error.why or str(error)


def _warm_up(group: Group, workers: list[Worker], work: str) -> list[Worker]:
    """Run the work once without counting it, since a candidate may compile; the workers that did not fail."""
    able = []
    for worker in workers:
        try:
            worker.seconds(*_name_and_batch(work))
            able.append(worker)
        except PeerError as error:
            _note_failure(group, worker, work, error)
    return able


def _round(group: Group, active: list[Worker], everyone: list[Worker], work: str, number: int) -> dict[str, float]:
    found = {}
    # The order rotates, so that no candidate always follows one that empties the cache.
    turn = number % len(active)
    for worker in active[turn:] + active[:turn]:
        time.sleep(PAUSE)
        others = [other for other in everyone if other is not worker]
        before = [other.processor_seconds() for other in others]
        began = time.perf_counter()
        try:
            found[worker.name] = round(worker.seconds(*_name_and_batch(work)), 6)
        except PeerError as error:
            _note_failure(group, worker, work, error)
        elapsed = time.perf_counter() - began
        for other, taken in zip(others, before, strict=True):
            other.idle_seconds += elapsed
            other.idle_cpu += other.processor_seconds() - taken
    return found
