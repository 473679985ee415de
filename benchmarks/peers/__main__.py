"""Compares lrclr with other programs that run the same network: ``python -m benchmarks.peers``, or `make peers`.

It makes an environment for each candidate, writes one checkpoint in every format, measures in groups, and writes a page
and all samples to ``benchmarks/results/peers``. Finished parts are kept in ``build/peers``: ``--seconds`` ends the run
early, and the next call continues it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.measure import alone, environment
from benchmarks.peers import prepare
from benchmarks.peers.catalogue import BASELINE, OURS, PEERS, RANDOM, TRAINED, Candidate, missing_flags
from benchmarks.peers.cold import measure_cold
from benchmarks.peers.environments import size
from benchmarks.peers.pages import write_pages
from benchmarks.peers.quality import wrong
from benchmarks.peers.rounds import Group, Plan, measure
from lrclr._processors import cpu_info, processors
from lrclr.errors import LrclrError

if TYPE_CHECKING:
    from collections.abc import Sequence

_AT_ONCE = 4  # peers of a group, beside the baseline and lrclr's: bounds the memory
_ROUNDS = {"image/1": 12, "image/8": 6, "image/32": 4, "text77/1": 4, "text/1": 6, "answer/1": 6, "answer-new/1": 4}
_COLD = 3


def main() -> None:
    """Measure what is left to measure, and write the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "-o", "--output", type=Path, help="folder; benchmarks/results/peers, with --quick build/peers/quick"
    )
    parser.add_argument("--build", type=Path, default=Path("build/peers"), help="folder of everything that is kept")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin nothing new after that time")
    parser.add_argument("--quick", action="store_true", help="two rounds of each work, one cold start")
    parser.add_argument(
        "--only", nargs="*", default=[], help="peers by parts of their names; the baseline and lrclr run too"
    )
    parser.add_argument("--works", nargs="*", choices=list(_ROUNDS), default=list(_ROUNDS), help="works to measure")
    both = [RANDOM, TRAINED]
    parser.add_argument("--checkpoints", nargs="*", choices=both, default=both, help="weights to measure with")
    given = parser.parse_args()
    until = time.monotonic() + given.seconds
    rounds = {work: 2 if given.quick else times for work, times in _ROUNDS.items() if work in given.works}
    # One thread per core is the default of most candidates, and some have no option for it.
    plan = Plan(rounds, processors(), given.build.resolve())
    wanted = [one for one in PEERS if not given.only or one.name == BASELINE or any(w in one.name for w in given.only)]
    with alone(_note):
        report = run(plan, given.checkpoints, wanted, cold_times=1 if given.quick else _COLD, until=until)
    output = given.output or (given.build / "quick" if given.quick else Path("benchmarks/results/peers"))
    print(write_pages(report, output))
    if not report["finished"]:
        print("More is left to measure. Run the same command again to continue.", file=sys.stderr)


def run(
    plan: Plan, checkpoints: Sequence[str], peers: Sequence[Candidate], *, cold_times: int, until: float = float("inf")
) -> dict[str, Any]:
    """Make what is missing and measure what is left.

    Args:
        plan: works, threads and folders.
        checkpoints: names of the weights.
        peers: candidates, the baseline among them; lrclr's own are added.
        cold_times: cold starts of each candidate.
        until: time (`time.monotonic`) after which nothing new begins.

    Returns:
        The report: what `benchmarks.peers.pages` renders.

    Raises:
        LrclrError: the baseline or lrclr cannot be installed.
    """
    flags = set(cpu_info().get("flags", "").split())
    refused = prepare.environments([*peers, *OURS], plan, _note)
    unavailable = {
        one.name: why
        for one in [*peers, *OURS]
        if (
            why := missing_flags(one, flags) or refused[one.environment] or ("" if one.adapter else "no adapter for it")
        )
    }
    here = [one for one in peers if one.name not in unavailable]
    ours = [one for one in OURS if one.name not in unavailable]
    if BASELINE in unavailable or {one.name for one in OURS} <= unavailable.keys():
        raise LrclrError("there is nothing to compare with", why="; ".join(f"{n}: {w}" for n, w in unavailable.items()))
    bundles = prepare.weights(checkpoints, plan, _note)
    formats = prepare.formats(here, checkpoints, plan, _note, until)
    groups: list[dict[str, Any]] = []
    finished = True
    for checkpoint in checkpoints:
        broken = {one.name: why for one in here if (why := prepare.failed_format(one, checkpoint, formats))}
        broken |= {one.name: why for one in ours if (why := bundles[checkpoint].get(one.options["precision"], ""))}
        made, finished = _measure_checkpoint(plan, checkpoint, here, ours, broken, until)
        groups += made
        if not finished:
            break
    best = _best_of_ours(Group(**groups[0]), set()) if groups else []
    everyone = [*here, *(one for one in ours if one.name in best)]
    key = {"source": prepare.source_digest(), "times": cold_times, "candidates": [one.name for one in everyone]}
    kept = _kept(plan, "cold", key)
    cold: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
    if finished:
        finished = measure_cold(
            cold, everyone, plan, checkpoints[0], cold_times, keep=lambda: _write(kept, cold), until=until
        )
    report = {
        "unavailable": unavailable,
        "formats": formats,
        "groups": groups,
        "cold": cold,
        "candidates": {one.name: {**asdict(one), "disk": size(plan.environments, one)} for one in [*here, *ours]},
        "environment": _environment(plan),
        "finished": finished,
    }
    # Errors name the folders of this machine; the pages do not.
    anonymous: dict[str, Any] = json.loads(json.dumps(report).replace(str(plan.build), "build/peers"))
    return anonymous


def _measure_checkpoint(
    plan: Plan,
    checkpoint: str,
    peers: Sequence[Candidate],
    ours: Sequence[Candidate],
    broken: dict[str, str],
    until: float,
) -> tuple[list[dict[str, Any]], bool]:
    """First lrclr's own candidates; then the peers, beside the best of those."""
    able = [peer for peer in peers if checkpoint in peer.checkpoints]
    (baseline,) = (peer for peer in able if peer.name == BASELINE)
    rest = [peer for peer in able if peer.name != BASELINE]
    sets = [[baseline, *ours], *([baseline, *rest[at : at + _AT_ONCE]] for at in range(0, len(rest), _AT_ONCE))]
    groups: list[Group] = []
    for number, candidates in enumerate(sets):
        best = _best_of_ours(groups[0], {one.precision for one in candidates}) if number else []
        members = [*candidates, *(one for one in ours if one.name in best)]
        key: dict[str, Any] = {
            "checkpoint": checkpoint,
            "candidates": [one.name for one in members],
            "rounds": plan.rounds,
            "threads": plan.threads,
            "source": prepare.source_digest(),
            "broken": {one.name: broken[one.name] for one in members if one.name in broken},
        }
        file = _kept(plan, f"{checkpoint}-{number}", key)
        group = Group.load(file, key)
        groups.append(group)
        if not group.finished:
            group.failed |= key["broken"]
            _note(f"{checkpoint}, group {number + 1} of {len(sets)}: {', '.join(one.name for one in members)}")
        whole = [one for one in members if one.name not in broken]
        if not measure(group, file, whole, plan, note=_note, until=until):
            return [asdict(one) for one in groups], False
    return [asdict(one) for one in groups], True


def _best_of_ours(group: Group, precisions: set[str]) -> list[str]:
    """lrclr's fastest of all and its fastest in each of these precisions, by the geometric mean of all works."""
    best: dict[str, tuple[float, str]] = {}
    for one in OURS:
        ratios = [found[0] for work in group.rounds if (found := group.ratio(BASELINE, one.name, work))]
        if ratios and one.options["engine"] != "torch" and not wrong(group.quality.get(one.name, {})):
            mean = float(np.exp(np.mean(np.log(ratios))))
            for precision in (one.precision, ""):
                best[precision] = max(best.get(precision, (0.0, "")), (mean, one.name))
    return list(dict.fromkeys(name for precision, (_, name) in best.items() if precision in {*precisions, ""}))


def _environment(plan: Plan) -> dict[str, Any]:
    """This machine. Its peak is the best of all calls, since other work on the machine can only lower it."""
    kept = plan.build / "environment.json"
    found = {**environment(), "threads": plan.threads}
    known = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
    if known.get("processor") == found["processor"]:
        found["fp32_gemm_gflops"] = max(found["fp32_gemm_gflops"], known["fp32_gemm_gflops"])
    _write(kept, found)
    return found


def _kept(plan: Plan, name: str, key: dict[str, Any]) -> Path:
    """File of a measurement. Its name has a digest of everything that the measurement depends on."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:8]
    return plan.build / "runs" / f"{name}-{digest}.json"


def _write(file: Path, content: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")


def _note(text: str) -> None:
    print(f"== {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
