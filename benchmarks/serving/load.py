"""Sends many requests from several processes and checks every answer: ``python -m benchmarks.serving.load``.

The answer for each image is computed before, without a server. Answers for different images differ by far more than the
tolerance, so an answer that belongs to another image is found.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from benchmarks.measure import environment
from benchmarks.serving.watched import memory_by_process
from lrclr import ZeroShotClassifier, read_image
from lrclr.errors import LrclrError
from lrclr.samples import sample_paths
from lrclr.triton.client import Client, ClientOptions
from lrclr.triton.server import ServeOptions, TritonServer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_TOLERANCE = 1e-4  # the other images of a batch change the last digits


def distinct_images(count: int) -> list[bytes]:
    """PNG files of the sample radiographs, rotated, cropped and brightened at random."""
    rng = np.random.default_rng(0)
    sources = [read_image(path) for path in sample_paths()]
    files = []
    for number in range(count):
        image = Image.fromarray(sources[number % len(sources)])
        side = int(min(image.size) * rng.uniform(0.6, 0.95))
        left, top = (int(rng.integers(0, size - side + 1)) for size in image.size)
        cut = image.rotate(float(rng.uniform(-12, 12))).crop((left, top, left + side, top + side)).resize((256, 256))
        bright = np.clip(np.asarray(cut, np.float32) * rng.uniform(0.7, 1.2), 0, 255).astype(np.uint8)
        content = io.BytesIO()
        Image.fromarray(bright).save(content, "PNG")
        files.append(content.getvalue())
    return files


def _numbers(predictions: Sequence[Any]) -> NDArray[np.float64]:
    return np.array([[one.probability for one in each.findings] for each in predictions])


def _ask(address: str, files: list[bytes], expected: NDArray[np.float64], places: list[int], threads: int) -> Any:
    """One client process: seconds of each answer, and messages of what went wrong."""
    wrong: list[str] = []
    seconds: list[float] = []

    def one(place: int) -> None:
        began = time.perf_counter()
        try:
            (answer,) = client.predict([files[place]])
        except LrclrError as error:
            wrong.append(str(error))
            return
        seconds.append(time.perf_counter() - began)
        if np.abs(_numbers([answer])[0] - expected[place]).max() > _TOLERANCE:
            wrong.append(f"image {place} got another answer")

    with Client(address, ClientOptions(retries=0)) as client, ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, places))
    return seconds, wrong


def _memory(server: int) -> float:
    return sum(held for held, _ in memory_by_process(server).values())


def run(bundle: Path, *, requests: int, concurrency: int, processes: int, images: int) -> dict[str, Any]:
    """Serve a bundle and send requests.

    Args:
        bundle: its folder.
        requests: number of requests in all.
        concurrency: requests at once, over all processes.
        processes: number of client processes.
        images: number of different images.
    """
    files = distinct_images(images)
    local = ZeroShotClassifier.from_bundle(bundle)
    expected = _numbers([local.predict([read_image(file)])[0] for file in files])
    apart = np.abs(expected[:, None] - expected[None]).max(axis=-1)[~np.eye(images, dtype=bool)].min()
    order = np.random.default_rng(1).integers(0, images, requests).tolist()
    with TritonServer(bundle, ServeOptions(grpc_port=0, http=False, metrics=False)) as server:
        context = multiprocessing.get_context("spawn")
        with context.Pool(processes) as pool:
            arguments = [
                (server.grpc, files, expected, order[k::processes], concurrency // processes) for k in range(processes)
            ]
            # Warm-up: every instance answers and allocates its memory.
            pool.starmap(_ask, [(*one[:3], one[3][:100], one[4]) for one in arguments])
            before = _memory(server.pid)
            began = time.perf_counter()
            pending = pool.starmap_async(_ask, arguments)
            held = []
            while not pending.ready():
                pending.wait(5)
                held.append(round(_memory(server.pid), 1))
            elapsed = time.perf_counter() - began
        after = _memory(server.pid)
    seconds = np.array([one for answered, _ in pending.get() for one in answered])
    wrong = [line for _, lines in pending.get() for line in lines]
    return {
        "requests": requests,
        "answered": len(seconds),
        "wrong": wrong[:10],
        "wrong_count": len(wrong),
        "smallest_difference_of_two_images": float(apart),
        "tolerance": _TOLERANCE,
        "concurrency": concurrency,
        "client_processes": processes,
        "seconds": round(elapsed, 1),
        "requests_per_second": round(requests / elapsed, 1),
        "latency_ms": {f"p{p}": round(float(np.percentile(seconds, p)) * 1e3, 1) for p in (50, 95, 99, 100)},
        "server_memory_mib": {"before": round(before, 1), "every_5_s": held, "after": round(after, 1)},
    }


def main() -> None:
    """Run and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, nargs="?", default=Path("triton_repo"))
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--images", type=int, default=64)
    given = parser.parse_args()
    result = run(
        given.bundle,
        requests=given.requests,
        concurrency=given.concurrency,
        processes=given.processes,
        images=given.images,
    )
    text = json.dumps({"environment": environment(), "load": result}, indent=1)
    print(text)
    if given.output is not None:
        given.output.write_text(text + "\n", encoding="utf-8")
    raise SystemExit(0 if result["wrong_count"] == 0 and result["answered"] == result["requests"] else 1)


if __name__ == "__main__":
    main()
