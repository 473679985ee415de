"""Candidates take turns over processes: one works, the others wait. What was measured is kept after every round.

They are too many to be in memory at once, so they come in groups. Every group has the baseline and the best of lrclr in
it, so that each ratio is of neighbours in time. A group that was cut off goes on where it was.
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
from benchmarks.peers.environments import python_of
from benchmarks.peers.quality import quality, wrong

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from benchmarks.peers.catalogue import Candidate
    from benchmarks.peers.works import Array

# Threads of one runtime may spin on for a moment after its answer; the next one starts when they sleep.
PAUSE = 0.03

Seconds = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Plan:
    """How a group is measured.

    Attributes:
        rounds: of each work at each number of images: ``{"image/1": 20, ...}``.
        threads: of every candidate.
        build: where environments, weights and logs lie.
    """

    rounds: dict[str, int]
    threads: int
    build: Path

    def folder(self, checkpoint: str) -> Path:
        return self.build / "weights" / checkpoint

    @property
    def environments(self) -> Path:
        return self.build / "env"


@dataclass
class Group:
    """What was measured of some candidates, kept in a file.

    Attributes:
        key: what it is a measurement of; another key begins anew.
        rounds: per work, the seconds of each candidate in each round.
        failed: what a candidate said when it could not.
        quality: see `quality`, per candidate.
        peak_mb, idle_share: per candidate.
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
        if file.is_file():
            content = json.loads(file.read_text(encoding="utf-8"))
            if content["key"] == key:
                return cls(**content)
        return cls(key)

    def save(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        scratch = file.with_suffix(".part")
        scratch.write_text(json.dumps(self.__dict__, indent=1) + "\n", encoding="utf-8")
        scratch.replace(file)

    def ratio(self, slower: str, faster: str, work: str) -> tuple[float, float, float] | None:
        """How many times faster the second is than the first, round by round: median and quartiles; None if unknown."""
        pairs = [(one[slower], one[faster]) for one in self.rounds.get(work, []) if slower in one and faster in one]
        if not pairs:
            return None
        middle, low, high = np.percentile([a / b for a, b in pairs], (50, 25, 75))
        return float(middle), float(low), float(high)

    def seconds(self, name: str, work: str) -> list[float]:
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
    """Bring a group to its rounds.

    Args:
        group: what is known already.
        file: where it is kept.
        candidates: the baseline among them.
        plan: how often.
        note: told what happens.
        until: the clock (`time.monotonic`) after which no new round begins.

    Returns:
        Whether it is finished.
    """
    if group.finished:
        return True
    folder = plan.folder(group.key["checkpoint"])
    (plan.build / "logs").mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        workers: list[Worker] = []
        for candidate in candidates:
            if time.monotonic() > until:
                return False
            try:
                worker = Worker(
                    candidate,
                    python_of(plan.environments, candidate),
                    folder,
                    threads=plan.threads,
                    log=plan.build / "logs" / f"{_slug(candidate.name)}.log",
                )
            except PeerError as error:
                group.failed[candidate.name] = error.why or str(error)
                note(f"{candidate.name}: {group.failed[candidate.name]}")
                continue
            workers.append(stack.enter_context(worker))
        _judge(group, workers, plan, note)
        group.save(file)
        for work, rounds in plan.rounds.items():
            taken = group.rounds.setdefault(work, [])
            asked = [worker for worker in workers if _offers(worker, work)]
            if sum(worker.name != BASELINE for worker in asked) == 0:
                continue
            _warm(group, asked, work)
            while len(taken) < rounds:
                if time.monotonic() > until:
                    return False
                taken.append(_round(group, asked, workers, work, len(taken)))
                group.save(file)
        for worker in workers:
            group.idle_share[worker.name] = round(worker.idle_cpu / max(worker.idle_seconds, 1e-9), 4)
    group.finished = True
    group.save(file)
    return True


def _judge(group: Group, workers: Iterable[Worker], plan: Plan, note: Callable[[str], None]) -> None:
    reference: dict[str, Array] = dict(np.load(plan.folder(group.key["checkpoint"]) / "reference.npz"))
    regions = reference.pop("regions", None)
    wanted = {work.partition("/")[0] for work in plan.rounds} | {"regions"}
    for worker in workers:
        answers: dict[str, Array] = {}
        for work in ("image", "text77", "text", "answer", "answer-new", "regions"):
            if work not in worker.works or work not in wanted:
                continue
            try:
                batch = 8 if 8 in worker.works[work] else 1
                answers[work], group.peak_mb[worker.name] = worker.answer(work, batch)
            except PeerError as error:
                group.failed[f"{worker.name}: {work}"] = error.why or str(error)
                note(f"{worker.name}: {work}: {error.why}")
        answers.setdefault("answer", answers.pop("answer-new", np.empty(0)))
        if not answers["answer"].size:
            del answers["answer"]
        rows = {name: array[: len(answers[name])] if name in answers else array for name, array in reference.items()}
        group.quality[worker.name] = quality(answers, rows, regions)
        for fault in wrong(group.quality[worker.name]):
            note(f"{worker.name} is WRONG: {fault}")


def _offers(worker: Worker, work: str) -> bool:
    name, _, batch = work.partition("/")
    return name in worker.works and int(batch) in worker.works[name]


def _warm(group: Group, workers: list[Worker], work: str) -> None:
    """A run that does not count: it compiles and packs. Its quality was judged before, at other sizes."""
    name, _, batch = work.partition("/")
    for worker in tuple(workers):
        try:
            worker.seconds(name, int(batch))
        except PeerError as error:
            group.failed[f"{worker.name}: {work}"] = error.why or str(error)
            workers.remove(worker)


def _round(group: Group, asked: list[Worker], everyone: list[Worker], work: str, number: int) -> dict[str, float]:
    name, _, batch = work.partition("/")
    found = {}
    # Another order each round: whoever follows a cache-hungry neighbour is not always the same.
    turn = number % len(asked)
    for worker in asked[turn:] + asked[:turn]:
        time.sleep(PAUSE)
        others = [other for other in everyone if other is not worker]
        before = [other.processor_seconds() for other in others]
        began = time.perf_counter()
        try:
            found[worker.name] = round(worker.seconds(name, int(batch))[0], 6)
        except PeerError as error:
            group.failed[f"{worker.name}: {work}"] = error.why or str(error)
        elapsed = time.perf_counter() - began
        for other, taken in zip(others, before, strict=True):
            other.idle_seconds += elapsed
            other.idle_cpu += other.processor_seconds() - taken
    return found


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)
