"""A peer's process: ``python -m benchmarks.peers.worker ADAPTER FOLDER OPTIONS``, driven by JSON lines on its stdin.

Commands: ``{"do": "time", "work": W, "batch": B, "times": N}`` runs it N times and answers with the seconds of each;
``{"do": "answer", "work": W, "batch": B, "file": F}`` writes what it gave to F. Each is answered by one line: the first
line of all says what can be asked for. Time is taken here, so that the way between the processes costs nothing.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import IO, Any

import numpy as np

from benchmarks.memory import peak_mb
from benchmarks.peers.works import Inputs, Opening, Works


def main() -> None:
    """Answer until stdin ends."""
    adapter, folder, options = sys.argv[1:4]
    # Peers print what they please; our lines go where only we write.
    lines = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    try:
        module = importlib.import_module(f"benchmarks.peers.adapters.{adapter}")
        works: Works = module.open_works(Opening(Path(folder), Inputs.load(Path(folder)), json.loads(options)))
    except Exception as error:
        _say(lines, error=_first_line(error))
        raise
    _say(lines, works={name: list(work.batches) for name, work in works.items()})
    for line in sys.stdin:
        request = json.loads(line)
        try:
            _say(lines, **_answer(works, request))
        except Exception as error:  # noqa: BLE001  whatever a peer raises becomes its row
            _say(lines, error=_first_line(error))


def _answer(works: Works, request: dict[str, Any]) -> dict[str, Any]:
    work, batch = works[request["work"]], int(request["batch"])
    if request["do"] == "answer":
        np.save(request["file"], work.array(work.run(batch)), allow_pickle=False)
        return {"peak_mb": peak_mb()}
    seconds = []
    for _ in range(int(request["times"])):
        begin = time.perf_counter()
        work.run(batch)
        seconds.append(time.perf_counter() - begin)
    return {"seconds": seconds}


def _say(lines: IO[str], **what: Any) -> None:
    lines.write(json.dumps(what) + "\n")


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:300]}" if text else type(error).__name__


if __name__ == "__main__":
    main()
