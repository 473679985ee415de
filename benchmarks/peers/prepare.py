"""Makes what a measurement reads: environments, weights, bundles, and each candidate's own format.

Also a program that runs one adapter's `prepare`: ``python -m benchmarks.peers.prepare ADAPTER FOLDER``.
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

# torch exports these graphs, for every peer that reads them.
_PROJECTS_PYTHON = ("plain_onnx",)


def environments(candidates: Sequence[Candidate], plan: Plan, note: Callable[[str], None]) -> dict[str, str]:
    """Make every environment.

    Returns:
        By environment, the reason why it could not be made; "" where it could.
    """
    from benchmarks.peers.environments import install

    refused: dict[str, str] = {}
    for candidate in candidates:
        if candidate.environment not in refused:
            note(f"environment {candidate.environment}")
            refused[candidate.environment] = install(plan.environments, candidate)
    return refused


def weights(names: Sequence[str], plan: Plan, note: Callable[[str], None]) -> dict[str, dict[str, str]]:
    """Write each checkpoint, torch's answers to the inputs, and lrclr's bundles of the present source.

    Returns:
        The reason why a bundle is missing, by checkpoint and precision; "" for an existing bundle.
    """
    import numpy as np

    from benchmarks.peers.catalogue import PRECISIONS
    from benchmarks.peers.weights import checkpoint_named, write_bundle, write_weights

    found = {}
    for name in names:
        folder = plan.folder(name)
        record = folder / "bundles.json"
        known = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
        if known.get("source") != source_digest():
            known = {"source": source_digest(), "refused": {}}
        missing = [one for one in PRECISIONS if one not in known["refused"]]
        there = (folder / "reference.npz").is_file()
        found[name] = known["refused"]
        if not missing and there:
            continue
        checkpoint = checkpoint_named(name)
        if not there:
            note(f"weights of {name} in every format")
            write_weights(checkpoint, folder)
            np.savez(folder / "reference.npz", **reference(folder))
        for precision in missing:
            note(f"{precision} bundle of {name}")
            known["refused"][precision] = write_bundle(checkpoint, folder, precision)
            record.write_text(json.dumps(known, indent=1), encoding="utf-8")
    return found


def source_digest() -> str:
    """Digest of lrclr's code: tells whether a bundle or a measurement is of the present state."""
    digest = hashlib.sha256()
    for folder in ("lrclr", "export"):
        for file in sorted((Path(__file__).parents[2] / folder).rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def reference(folder: Path) -> dict[str, Any]:
    """The answers of torch eager in float32, and the regions that lrclr's network selects in torch."""
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
    """Convert the weights to the formats that the candidates read, each once.

    Args:
        candidates: whose formats.
        checkpoints: names of the weights.
        plan: folders and threads.
        note: called with a line about the progress.
        until: time (`time.monotonic`) after which no new conversion begins.

    Returns:
        For each format and checkpoint, ``"FORMAT CHECKPOINT"``: the ``seconds`` that it took, or how it ``failed``.
    """
    from benchmarks.peers.environments import python_of

    kept = plan.build / "formats.json"
    known: dict[str, dict[str, Any]] = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
    done = {name: one for name, one in known.items() if "seconds" in one}
    for candidate in candidates:
        for checkpoint in (one for one in checkpoints if one in candidate.checkpoints):
            for name in candidate.formats:
                key = f"{name} {checkpoint}"
                if key in done or time.monotonic() > until:
                    continue
                note(f"format {key}")
                own = python_of(plan.environments, candidate)
                python = sys.executable if name in _PROJECTS_PYTHON else str(own)
                done[key] = _converted(python, name, checkpoint, plan)
                kept.write_text(json.dumps(done, indent=1), encoding="utf-8")
    return done


def failed_format(candidate: Candidate, checkpoint: str, done: dict[str, dict[str, Any]]) -> str:
    """The first of a candidate's formats that could not be made, and why; "" if all are there."""
    for name in candidate.formats:
        result = done.get(f"{name} {checkpoint}", {"failed": "not made yet"})
        if "failed" in result:
            return f"format {name}: {result['failed']}"
    return ""


def _converted(python: str, name: str, checkpoint: str, plan: Plan) -> dict[str, Any]:
    from benchmarks.peers.client import process_environment
    from benchmarks.peers.environments import ROOT

    command = [python, "-W", "ignore", "-m", "benchmarks.peers.prepare", name, str(plan.folder(checkpoint))]
    began = time.perf_counter()
    ran = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=process_environment(plan.threads), check=False
    )
    if ran.returncode:
        return {"failed": (ran.stderr.strip().splitlines() or [f"exit code {ran.returncode}"])[-1][:300]}
    return {"seconds": round(time.perf_counter() - began, 1)}


def adapter(name: str) -> Any:
    """The module of that name in `benchmarks.peers.adapters`."""
    return importlib.import_module(f"benchmarks.peers.adapters.{name}")


def main() -> None:
    """Run one adapter's `prepare`."""
    name, folder = sys.argv[1:3]
    adapter(name).prepare(Path(folder))


if __name__ == "__main__":
    main()
