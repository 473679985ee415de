"""What comes before any measurement: weights, environments, and what each peer makes of the weights.

Also a program, which a peer's own Python runs: ``python -m benchmarks.peers.prepare ADAPTER FOLDER``.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.peers.catalogue import Candidate
    from benchmarks.peers.rounds import Plan

_STEPS = ("plain_onnx", "openvino_straight", "optimum_onnx", "modern_onnx_clip", "faster_clip")
# Adapters that read what another adapter's step writes.
_READS_PLAIN_ONNX = ("plain_onnx", "openvino_straight", "modern_onnx_clip")


def environments(candidates: Sequence[Candidate], plan: Plan, note: Callable[[str], None]) -> dict[str, dict[str, Any]]:
    """Make every environment that is wanted.

    Returns:
        By environment: what pip said and took; see `environments.make`.
    """
    from benchmarks.peers.environments import make

    wanted: dict[str, list[str]] = {}
    for candidate in candidates:
        if candidate.environment:
            known = wanted.setdefault(candidate.environment, [])
            known += [one for one in candidate.requirements if one not in known]
    made = {}
    for name, requirements in wanted.items():
        note(f"environment {name}")
        made[name] = make(plan.environments, name, requirements)
    return made


def weights(names: Sequence[str], plan: Plan, note: Callable[[str], None]) -> dict[str, dict[str, str]]:
    """Write the checkpoints that are not there or are of another state of lrclr, and what torch makes of the inputs.

    Returns:
        By checkpoint and precision, why there is no bundle; "" where there is one.
    """
    import numpy as np

    from benchmarks.peers.catalogue import precisions
    from benchmarks.peers.weights import checkpoint_named, write_bundle, write_weights

    found = {}
    for name in names:
        folder = plan.folder(name)
        record = folder / "bundles.json"
        known = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
        if known.get("source") != source_digest():
            known = {"source": source_digest(), "refused": {}}
        missing = [one for one in precisions() if one not in known["refused"]]
        there = (folder / "reference.npz").is_file()
        if not missing and there:
            found[name] = known["refused"]
            continue
        checkpoint = checkpoint_named(name)
        if not there:
            note(f"weights of {name}, in everybody's format")
            write_weights(checkpoint, folder)
            np.savez(folder / "reference.npz", **reference(folder))
        for precision in missing:
            note(f"{precision} bundle of {name}")
            known["refused"][precision] = write_bundle(checkpoint, folder, precision)
            record.write_text(json.dumps(known, indent=1), encoding="utf-8")
        found[name] = known["refused"]
    return found


def source_digest() -> str:
    """Of lrclr's own code: whether a bundle or a measurement is of what is here now."""
    digest = hashlib.sha256()
    for folder in ("lrclr", "export"):
        for file in sorted((Path(__file__).parents[2] / folder).rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def reference(folder: Path) -> dict[str, Any]:
    """What torch eager gives in float32, and the regions that lrclr's network picks in torch."""
    import numpy as np

    from benchmarks.peers.adapters import lrclr_classifier, torch_clip
    from benchmarks.peers.works import Inputs, Opening

    inputs = Inputs.load(folder)
    plain = torch_clip.open_works(Opening(folder, inputs, {"attention": "eager"}))
    found = {name: plain[name].array(plain[name].run(8)) for name in ("image", "text77", "text", "answer")}
    own = lrclr_classifier.open_works(Opening(folder, inputs, {"engine": "torch"}))
    return {**found, "regions": np.asarray(own["regions"].run(8))}


def formats(
    candidates: Sequence[Candidate],
    checkpoints: Sequence[str],
    plan: Plan,
    note: Callable[[str], None],
    until: float = float("inf"),
) -> dict[str, dict[str, Any]]:
    """Let each peer make of the weights what it reads, once.

    Args:
        candidates: whose.
        checkpoints: of which weights.
        plan: where.
        note: told what happens.
        until: the clock after which nothing new begins.

    Returns:
        By adapter and checkpoint, ``"adapter checkpoint"``: seconds taken, or what went wrong.
    """
    from benchmarks.peers.client import ROOT, environment_of_process
    from benchmarks.peers.environments import python_of

    kept = plan.build / "formats.json"
    done: dict[str, dict[str, Any]] = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
    for step in _STEPS:
        adapters = _READS_PLAIN_ONNX if step == "plain_onnx" else (step,)
        users = [one for one in candidates if one.adapter in adapters]
        # The plain graphs are exported with the project's own torch, whichever peer reads them.
        python = (
            sys.executable if step == "plain_onnx" else str(python_of(plan.environments, users[0])) if users else ""
        )
        for checkpoint in sorted({name for one in users for name in one.checkpoints}):
            key = f"{step} {checkpoint}"
            if checkpoint not in checkpoints or "seconds" in done.get(key, {}) or time.monotonic() > until:
                continue
            note(f"{step}: its format of {checkpoint}")
            began = time.perf_counter()
            command = [
                python,
                "-W",
                "ignore",
                "-m",
                "benchmarks.peers.prepare",
                step,
                str(plan.folder(checkpoint)),
            ]
            ran = subprocess.run(
                command,
                capture_output=True,
                text=True,
                cwd=ROOT,
                env=environment_of_process(plan.threads),
                check=False,
            )
            if ran.returncode:
                # Not kept as done: the next call tries again.
                done[key] = {"failed": (ran.stderr.strip().splitlines() or ["no word"])[-1][:300]}
                note(f"{step}: {done[key]['failed']}")
            else:
                done[key] = {"seconds": round(time.perf_counter() - began, 1)}
            kept.write_text(json.dumps(done, indent=1), encoding="utf-8")
    return done


def main() -> None:
    """Run one adapter's `prepare`."""
    adapter, folder = sys.argv[1:3]
    importlib.import_module(f"benchmarks.peers.adapters.{adapter}").prepare(Path(folder))


if __name__ == "__main__":
    main()
