"""Cold starts: from the start of a process to the first answer, and whether that needs a network."""

from __future__ import annotations

import subprocess
import time
from typing import TYPE_CHECKING, Any

from benchmarks.peers.client import PeerError, Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.peers.catalogue import Candidate
    from benchmarks.peers.rounds import Plan


def cold_start(candidate: Candidate, plan: Plan, checkpoint: str, *, network: bool = True) -> float:
    """Seconds from the start of a process to its first answer for one image.

    Raises:
        PeerError: it failed.
    """
    began = time.perf_counter()
    with Worker(candidate, plan, checkpoint, network=network) as worker:
        worker.seconds(next(work for work in ("image", "answer", "answer-new") if work in worker.works), 1)
        return time.perf_counter() - began


def can_cut_network() -> bool:
    """Whether a process may be started in a network namespace of its own."""
    try:
        return subprocess.run(["unshare", "--map-root-user", "--net", "true"], check=False).returncode == 0
    except OSError:
        return False


def measure_cold(
    known: dict[str, Any],
    candidates: Sequence[Candidate],
    plan: Plan,
    checkpoint: str,
    times: int,
    *,
    keep: Callable[[], None],
    until: float,
) -> bool:
    """Measure the cold starts that `known` lacks, in turns.

    Args:
        known: by candidate, ``seconds`` of each start, the answer to whether it starts ``offline``, and how it
            ``failed``; filled in. The start without a network comes first and fills caches; its time does not count.
        candidates: whose starts.
        plan: folders and threads.
        checkpoint: name of the weights.
        times: starts of each candidate.
        keep: called after each start.
        until: time (`time.monotonic`) after which no new start begins.

    Returns:
        Whether all starts are there.
    """
    cut = can_cut_network()
    for number in range(times + 1):
        for candidate in candidates:
            entry = known.setdefault(candidate.name, {"seconds": [], "offline": None, "failed": ""})
            # One that compiles at every start takes minutes, and its times differ little.
            enough = len(entry["seconds"]) >= (1 if "compile" in candidate.options else times)
            if entry["failed"] or enough or len(entry["seconds"]) + (entry["offline"] is not None) > number:
                continue
            if time.monotonic() > until:
                return False
            try:
                if entry["offline"] is None:
                    entry["offline"] = _offline(candidate, plan, checkpoint) if cut else "not checked"
                else:
                    entry["seconds"].append(round(cold_start(candidate, plan, checkpoint), 3))
            except PeerError as error:
                entry["failed"] = error.why or str(error)
            keep()
    return True


def _offline(candidate: Candidate, plan: Plan, checkpoint: str) -> str:
    try:
        cold_start(candidate, plan, checkpoint, network=False)
    except PeerError as error:
        return f"no: {error.why}"
    return "yes"
