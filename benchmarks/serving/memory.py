"""Measures the memory of a server, idle and at its largest requests: ``python -m benchmarks.serving.memory``.

Shared pages are counted once (PSS), with those in ``/dev/shm``. The figures are separate for the server, the processes
of the model ``lrclr``, and the processes of the graphs, which the stand-in for the ONNX Runtime backend starts.
Triton's own backend runs the graphs in the server's process.
"""

from __future__ import annotations

import argparse
import io
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import numpy as np
import psutil  # type: ignore[import-untyped, unused-ignore]
from PIL import Image

from benchmarks.measure import environment
from benchmarks.serving.watched import memory_by_process
from lrclr import budget, read_image
from lrclr.samples import SAMPLES, sample_paths
from lrclr.triton.client import Client, ClientOptions
from lrclr.triton.server import ServeOptions, TritonServer

_MIB = 1 << 20
_LARGE = (2048, 2500)  # width and height of a usual radiograph


def _held(server: int) -> dict[str, float]:
    """MiB by kind of process."""
    sums = {"server": 0.0, "lrclr": 0.0, "graphs": 0.0}
    for pid, (held, command) in memory_by_process(server).items():
        kind = "server" if pid == server else "lrclr" if "/lrclr/" in command else "graphs"
        sums[kind] += held
    return {**sums, "all": sum(sums.values())}


def _shared() -> float:
    """MiB that the backends hold in /dev/shm."""
    files = Path("/dev/shm").glob("lrclr_*")
    return sum(file.stat().st_blocks * 512 for file in files if file.exists()) / _MIB


class Peak:
    """The largest of each figure in a block, observed every 0.1 s."""

    def __init__(self, server: int) -> None:
        self._server, self._over = server, threading.Event()
        self.largest: dict[str, float] = {}
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            try:
                held = {**_held(self._server), "shm": _shared()}
            except psutil.NoSuchProcess:
                return
            for name, value in held.items():
                self.largest[name] = max(value, self.largest.get(name, 0.0))
            if self._over.wait(0.1):
                return


def _large_file() -> bytes:
    image = Image.fromarray(read_image(SAMPLES[0].path())).resize(_LARGE)
    noise = np.random.default_rng(0).integers(-3, 4, (_LARGE[1], _LARGE[0]))
    grey = np.clip(np.asarray(image.convert("L"), np.int64) + noise, 0, 255).astype(np.uint8)
    content = io.BytesIO()
    Image.fromarray(grey).save(content, "PNG", compress_level=1)
    return content.getvalue()


def measure(bundle: Path, instances: int) -> dict[str, Any]:
    """Memory of a server: idle, with single radiographs, and with the largest requests at once.

    Args:
        bundle: its folder.
        instances: number of processes of the model `lrclr`.
    """
    small, large = sample_paths()[0].read_bytes(), _large_file()
    options = ServeOptions(grpc_port=0, http=False, metrics=False, instances=instances)
    rows: dict[str, Any] = {}
    with TritonServer(bundle, options) as server, Client(server.grpc, ClientOptions(timeout=250)) as client:
        rows["idle"] = {**_held(server.pid), "shm": _shared()}
        batch = min(budget.REQUEST_HEATMAPS, budget.REQUEST_BYTES // (len(large) + 4))
        loads = {"single": ([small], 8 * instances, 2 * instances), "largest": ([large] * batch, instances, instances)}
        for name, (files, requests, concurrency) in loads.items():
            with Peak(server.pid) as peak, ThreadPoolExecutor(concurrency) as pool:
                list(pool.map(lambda _, files=files: client.ask(files, heatmap=True), range(requests)))
            rows[name] = peak.largest
        rows["after"] = {**_held(server.pid), "shm": _shared()}
    graphs = sum(file.stat().st_size for file in bundle.glob("*/1/model.onnx*")) / _MIB
    return {
        "instances": instances,
        "images": batch,
        "graphs_mib": round(graphs, 1),
        "request_mib": round(batch * len(large) / _MIB, 1),
        "mib": {name: {key: round(value, 1) for key, value in row.items()} for name, row in rows.items()},
    }


def main() -> None:
    """Run and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, nargs="+")
    parser.add_argument("--instances", type=int, nargs="+", default=[2, 8])
    parser.add_argument("-o", "--output", type=Path)
    given = parser.parse_args()
    rows = [{"bundle": path.name, **measure(path, count)} for path in given.bundle for count in given.instances]
    text = json.dumps({"environment": environment(), "memory": rows}, indent=1)
    print(text)
    if given.output is not None:
        given.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
