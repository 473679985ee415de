"""Every peer side by side: ``python -m benchmarks.peers``, as `make peers` runs it.

It makes the environments under ``build/peers``, writes one checkpoint in everybody's format, measures in groups, and
writes ``peers.json`` and ``README.md``. Whatever is there already is kept: ``--seconds`` ends it early, and the next
call goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.measure import environment
from benchmarks.peers import prepare
from benchmarks.peers.catalogue import BASELINE, PEERS, RANDOM, TRAINED, Candidate, lacking, ours, processor_flags
from benchmarks.peers.cold import measure_cold
from benchmarks.peers.environments import python_of, size
from benchmarks.peers.quality import wrong
from benchmarks.peers.rounds import Group, Plan, measure
from benchmarks.peers.table import markdown
from lrclr._processors import processors

if TYPE_CHECKING:
    from collections.abc import Sequence

_AT_ONCE = 4  # peers of a group, beside the baseline and lrclr's: bounds the memory
_ROUNDS = {"image/1": 12, "image/8": 6, "image/32": 4, "text77/1": 4, "text/1": 6, "answer/1": 6, "answer-new/1": 4}
_COLD = 3


def main() -> None:
    """Do what is left to do."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, help="benchmarks/results/peers; with --quick build/peers/quick")
    parser.add_argument("--build", type=Path, default=Path("build/peers"))
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin nothing new after that")
    parser.add_argument("--quick", action="store_true", help="two rounds of everything, one cold start")
    parser.add_argument("--only", nargs="*", default=[], help="parts of names: the baseline, lrclr, and these peers")
    parser.add_argument("--works", nargs="*", choices=list(_ROUNDS), default=list(_ROUNDS), help="what to measure")
    both = [RANDOM, TRAINED]
    parser.add_argument("--checkpoints", nargs="*", choices=both, default=both, help="of which weights")
    given = parser.parse_args()
    until = time.monotonic() + given.seconds
    rounds = {work: 2 if given.quick else times for work, times in _ROUNDS.items() if work in given.works}
    # A thread a core: what everyone takes who is not told, and some cannot be told.
    plan = Plan(rounds, processors(), given.build.resolve())
    wanted = [one for one in PEERS if not given.only or one.name == BASELINE or any(w in one.name for w in given.only)]
    report, finished = _run(plan, given.checkpoints, wanted, 1 if given.quick else _COLD, until)
    output = given.output or (given.build / "quick" if given.quick else Path("benchmarks/results/peers"))
    output.mkdir(parents=True, exist_ok=True)
    (output / "peers.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (output / "README.md").write_text(markdown(report), encoding="utf-8")
    print(markdown(report))
    if not finished:
        print("There is more to measure: call again, and it goes on.", file=sys.stderr)


def _run(
    plan: Plan, checkpoints: Sequence[str], peers: Sequence[Candidate], cold_times: int, until: float
) -> tuple[dict[str, Any], bool]:
    unavailable: dict[str, str] = {}
    flags = processor_flags()
    made = prepare.environments(peers, plan, _note)
    for peer in peers:
        why = lacking(peer, flags) or made.get(peer.environment, {}).get("refused", "")
        if why or not peer.adapter:
            unavailable[peer.name] = why or "it was installed, and nobody has written how to ask it"
    here = [peer for peer in peers if peer.name not in unavailable]
    bundles = prepare.weights(checkpoints, plan, _note)
    formats = prepare.formats(here, checkpoints, plan, _note, until)
    report: dict[str, Any] = {
        "unavailable": unavailable,
        "environments": made,
        "formats": formats,
        "groups": [],
        "cold": {},
    }
    finished = True
    for checkpoint in checkpoints:
        groups, done = _measure_checkpoint(plan, checkpoint, here, bundles[checkpoint], until)
        report["groups"] += groups
        finished = finished and done
        if not done:
            break
    mine = _references(Group(**report["groups"][0]), set()) if report["groups"] else []
    everyone = [*here, *(one for one in ours() if one.name in mine)]
    key = {"source": prepare.source_digest(), "times": cold_times, "candidates": [one.name for one in everyone]}
    kept = _kept(plan, "cold", key)
    cold = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {"key": key, "of": {}}
    if finished:
        finished = measure_cold(
            cold["of"],
            everyone,
            plan,
            checkpoints[0],
            cold_times,
            keep=lambda: _write(kept, cold),
            until=until,
        )
    report["cold"] = cold["of"]
    report["candidates"] = {one.name: _described(one, plan) for one in [*here, *ours()]}
    report["environment"] = _environment(plan)
    report["finished"] = finished
    # Errors name the folders that they met; a page does not say where on a machine it was made.
    anonymous: dict[str, Any] = json.loads(json.dumps(report).replace(str(plan.build), "build/peers"))
    return anonymous, finished


def _measure_checkpoint(
    plan: Plan, checkpoint: str, peers: Sequence[Candidate], refused: dict[str, str], until: float
) -> tuple[list[dict[str, Any]], bool]:
    """First lrclr's own candidates; then the peers, beside the best of those."""
    able = [peer for peer in peers if checkpoint in peer.checkpoints]
    (baseline,) = (peer for peer in able if peer.name == BASELINE)
    rest = [peer for peer in able if peer.name != BASELINE]
    own = [one for one in ours() if not refused.get(one.options["precision"])]
    sets = [[baseline, *own], *([baseline, *rest[at : at + _AT_ONCE]] for at in range(0, len(rest), _AT_ONCE))]
    groups: list[Group] = []
    for number, of_set in enumerate(sets):
        best = _references(groups[0], {one.precision for one in of_set}) if number else []
        members = [*of_set, *(one for one in own if one.name in best)]
        key = {
            "checkpoint": checkpoint,
            "candidates": [one.name for one in members],
            "rounds": plan.rounds,
            "threads": plan.threads,
            "source": prepare.source_digest(),
        }
        file = _kept(plan, f"{checkpoint}-{number}", key)
        group = Group.load(file, key)
        if number == 0:
            group.failed.update({f"lrclr {one}": why for one, why in refused.items() if why})
        groups.append(group)
        if not group.finished:
            _note(f"{checkpoint}, group {number + 1} of {len(sets)}: {', '.join(one.name for one in members)}")
        if not measure(group, file, members, plan, note=_note, until=until):
            return [one.__dict__ for one in groups], False
    return [one.__dict__ for one in groups], True


def _references(group: Group, precisions: set[str]) -> list[str]:
    """lrclr's fastest of all, and its fastest in each of these precisions, by the mean over all that was measured."""
    best: dict[str, tuple[float, str]] = {}
    for one in ours():
        ratios = [found[0] for work in group.rounds if (found := group.ratio(BASELINE, one.name, work))]
        if ratios and one.options["engine"] != "torch" and not wrong(group.quality.get(one.name, {})):
            mean = float(np.exp(np.mean(np.log(ratios))))
            for precision in (one.precision, ""):
                best[precision] = max(best.get(precision, (0.0, "")), (mean, one.name))
    return list(dict.fromkeys(name for precision, (_, name) in best.items() if precision in {*precisions, ""}))


def _environment(plan: Plan) -> dict[str, Any]:
    """This machine; its peak is the best of all calls, since a neighbour can only lower it."""
    kept = plan.build / "environment.json"
    found = {**environment(), "threads": plan.threads}
    known = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
    if known.get("processor") == found["processor"]:
        found["fp32_gemm_gflops"] = max(found["fp32_gemm_gflops"], known["fp32_gemm_gflops"])
    _write(kept, found)
    return found


def _described(one: Candidate, plan: Plan) -> dict[str, Any]:
    return {
        "precision": one.precision,
        "ours": one.ours,
        "requirements": list(one.requirements),
        "commands": list(one.commands),
        "cannot": list(one.cannot),
        "environment": one.environment,
        # OpenVINO reads the plain graphs as they are, unless they are to be quantised.
        "adapter": "plain_onnx" if one.options.get("precision") in {"f32", "bf16"} else one.adapter,
        "disk": size(python_of(plan.environments, one), one.requirements),
    }


def _kept(plan: Plan, name: str, key: dict[str, Any]) -> Path:
    """Where a measurement is kept: what differs in anything that matters has another name."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:8]
    return plan.build / "runs" / f"{name}-{digest}.json"


def _write(file: Path, content: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")


def _note(text: str) -> None:
    print(f"== {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
