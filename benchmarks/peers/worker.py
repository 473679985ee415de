"""The process of a candidate: ``python -m benchmarks.peers.worker ADAPTER FOLDER OPTIONS DESCRIPTOR``.

`benchmarks.peers.client.Worker` talks to it over the inherited pipe DESCRIPTOR. Each message to the client is a pair:
an error text, "" for none, and a value. The first value is the works that the candidate offers. Then each request, an
action, a work and a number of images, gets one answer:

- ``"time"``: seconds of one run, measured here, so that the way between the processes does not count;
- ``"answer"``: the array that one run gave, and the most memory that the process has had, in MB.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.memory import peak_mb
from benchmarks.peers.works import Inputs, Opening

if TYPE_CHECKING:
    from benchmarks.peers.works import Works


def main() -> None:
    """Answer until the pipe is closed."""
    adapter, folder, options, descriptor = sys.argv[1:5]
    pipe = Connection(int(descriptor))
    try:
        module = importlib.import_module(f"benchmarks.peers.adapters.{adapter}")
        works: Works = module.open_works(Opening(Path(folder), Inputs.load(Path(folder)), json.loads(options)))
    except Exception as error:
        pipe.send((first_line(error), None))
        raise
    pipe.send(("", {name: list(work.batches) for name, work in works.items()}))
    while True:
        try:
            request = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(("", _answer(works, *request)))
        except Exception as error:  # noqa: BLE001 - the table shows any error of a candidate
            pipe.send((first_line(error), None))


def _answer(works: Works, action: str, name: str, batch: int) -> Any:
    work = works[name]
    if action == "answer":
        return work.array(work.run(batch)), peak_mb()
    begin = time.perf_counter()
    work.run(batch)
    return time.perf_counter() - begin


def first_line(error: BaseException) -> str:
    """Type and first line of an error."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:300]}" if text else type(error).__name__


if __name__ == "__main__":
    main()
