"""Measures the overhead of a server, with ViT-B/32: ``python -m benchmarks.serving.overhead``.

The same bundle answers in this process and in the server, with the same number of threads. The candidates take turns,
and ratios are taken round by round. Weights are random, which does not change the speed. All answers are compared.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tritonclient.grpc as triton

from benchmarks.measure import environment, interleaved
from lrclr import ZeroShotClassifier, read_image
from lrclr.checkpoints import init_checkpoint, load_checkpoint
from lrclr.images import read_reduced
from lrclr.preprocessing import preprocess_batch
from lrclr.samples import sample_paths
from lrclr.triton.client import Client, ClientOptions
from lrclr.triton.server import ServeOptions, TritonServer
from lrclr_export import ExportOptions, export_bundle

if TYPE_CHECKING:
    from collections.abc import Callable

_BATCHES = (1, 2, 4, 8, 16)
_CONCURRENCY = 16


def overhead(bundle: Path, *, rounds: int) -> dict[str, Any]:
    """Time to decode and answer one file: in this process, over gRPC, and with shared memory."""
    local = ZeroShotClassifier.from_bundle(bundle)
    file = sample_paths()[0].read_bytes()
    options = ServeOptions(grpc_port=0, http=False, metrics=False, shared_memory=True)
    with (
        TritonServer(bundle, options) as server,
        Client(server.grpc) as plain,
        Client(server.grpc, ClientOptions(shared_memory=True)) as sharing,
    ):
        candidates: dict[str, Callable[[], Any]] = {
            "here": lambda: local.predict([read_reduced(file, local.spec.preprocess)]),
            "grpc": lambda: plain.predict([file]),
            "grpc, shared memory": lambda: sharing.predict([file]),
        }
        answers = [[one.probability for one in work()[0].findings] for work in candidates.values()]
        timings = interleaved(candidates, rounds=rounds)
    return {
        "largest_difference": float(np.ptp(np.array(answers), axis=0).max()),
        "median_ms": {name: round(timings.median_ms(name), 2) for name in candidates},
        "times_here": {
            name: [round(1 / one, 4) for one in timings.ratio("here", name)] for name in candidates if name != "here"
        },
        "seconds": timings.to_dict(),
    }


def throughput(bundle: Path, *, rounds: int) -> dict[str, Any]:
    """Preprocessed images a second: in this process at each batch size, and served to 16 callers of one image each."""
    local = ZeroShotClassifier.from_bundle(bundle)
    image = read_image(sample_paths()[0])
    pixels = preprocess_batch([image] * max(_BATCHES), local.spec.preprocess)
    with TritonServer(bundle, ServeOptions(grpc_port=0, http=False, metrics=False)) as server:
        client = triton.InferenceServerClient(server.grpc)

        def ask(_: int) -> Any:
            one = triton.InferInput("pixel_values", [1, *pixels.shape[1:]], "FP32")
            one.set_data_from_numpy(pixels[:1])
            return client.infer("lrclr", [one], outputs=[triton.InferRequestedOutput("probability")])

        with ThreadPoolExecutor(_CONCURRENCY) as pool:

            def served() -> None:
                list(pool.map(ask, range(_CONCURRENCY * 4)))

            def in_batches(batch: int) -> None:
                for _ in range(_CONCURRENCY * 4 // batch):
                    local.answer_pixels(pixels[:batch])

            candidates: dict[str, Callable[[], Any]] = {"served": served}
            for batch in _BATCHES:
                candidates[f"here, batch {batch}"] = partial(in_batches, batch)
            timings = interleaved(candidates, rounds=rounds, warmup=1)
        client.close()
    best = min((name for name in candidates if name != "served"), key=timings.median_ms)
    return {
        "images_per_second": {name: round(_CONCURRENCY * 4e3 / timings.median_ms(name), 1) for name in candidates},
        "best_here": best,
        "served_of_best": [round(one, 4) for one in timings.ratio(best, "served")],
        "seconds": timings.to_dict(),
    }


def start_up(bundle: Path, *, rounds: int) -> dict[str, Any]:
    """Seconds from the start of a server until it is ready."""
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        with TritonServer(bundle, ServeOptions(grpc_port=0, http=False, metrics=False)):
            seconds.append(round(time.perf_counter() - began, 2))
    return {"seconds": seconds}


def main() -> None:
    """Run and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--rounds", type=int, default=60)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle"
        export_bundle(init_checkpoint("vit-b-32", fusion_trained=True, alpha=0.4), bundle, ExportOptions("fp32"))
        result = {
            "environment": environment(),
            "overhead": overhead(bundle, rounds=given.rounds),
            "throughput": throughput(bundle, rounds=max(3, given.rounds // 10)),
        }
        small = Path(folder) / "default"
        export_bundle(load_checkpoint("default"), small, ExportOptions("fp16"))
        result["start_up_default_checkpoint"] = start_up(small, rounds=5)
    text = json.dumps(result, indent=1)
    print(text)
    if given.output is not None:
        given.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
