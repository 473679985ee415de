"""Command 3: ONNX Runtime's CUDA provider. ``python -m benchmarks.gpu.quarter_hour.onnxruntime_cuda -o FOLDER``.

It measures, in this order: the machine; the provider of each node; the gates of the default bundle with TF32 on and off
and CUDA graphs on and off; latency and throughput of an image encoder; and `lrclr bench`. Each group is a process of
its own, and each measurement is in ``onnxruntime_cuda.json`` as soon as it is made. The exit code is 1 if a measurement
failed or, without TF32, a gate refused. With ``--device cpu`` it runs without a GPU, which checks only that it works.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from benchmarks.gpu.quarter_hour.onnxruntime_measurements import GROUPS, Plan
from benchmarks.gpu.quarter_hour.record import Record

_ROOT: Final = Path(__file__).parents[3]
_RESULT: Final = "onnxruntime_cuda.json"


def _run_groups(given: argparse.Namespace) -> int:
    """Run each group in a process of its own, since a process cannot go on after a fault on the GPU."""
    result = given.output / _RESULT
    Record(result, {"command": "onnxruntime_cuda", "device": given.device, "network": given.network})
    packages = given.ready / "packages"
    paths = [str(path) for path in (packages, _ROOT, _ROOT / "export") if path.is_dir()]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])}
    end = time.monotonic() + given.limit
    for group in given.only or GROUPS:
        left = end - time.monotonic()
        if left < 1:
            Record(result).fail(group, f"left out: the limit of {given.limit} s was reached")
            continue
        command = [sys.executable, "-m", __spec__.name, *sys.argv[1:], "--group", group]
        print(f"== {group}", flush=True)
        # A process group of its own, so that its children end with it.
        with (
            (given.output / f"stderr-{group}.txt").open("wb") as stderr,
            subprocess.Popen(command, env=environment, process_group=0, stderr=stderr) as process,
        ):
            try:
                code = process.wait(left)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                Record(result).fail(group, f"ended: the limit of {given.limit} s was reached")
                continue
        if code:
            Record(result).fail(group, f"the process ended with code {code}")
    failed = Record(result).failed
    for name in failed:
        print(f"failed: {name}")
    print(f"{len(failed)} measurements failed; the results are in {result}, and what ONNX Runtime printed is beside it")
    return 1 if failed else 0


def main() -> None:
    """Run all groups, or the hidden ``--group`` in this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the results")
    parser.add_argument("--ready", type=Path, default=Path("build/quarter_hour/ready"), help="what `unpack` made")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--network", default="vit-b-32")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32, 64])
    parser.add_argument("--seconds", type=float, default=0.5, help="of each measurement of latency")
    parser.add_argument("--bench-seconds", type=float, default=6)
    parser.add_argument("--limit", type=float, default=115, help="seconds for everything")
    parser.add_argument("--only", nargs="+", choices=GROUPS, help="some of the groups")
    parser.add_argument("--group", choices=GROUPS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.group is None:
        sys.exit(_run_groups(given))
    plan = Plan(
        given.ready.resolve(),
        given.output.resolve(),
        given.device,
        given.network,
        tuple(given.batches),
        given.seconds,
        given.bench_seconds,
    )
    GROUPS[given.group](plan, Record(plan.output / _RESULT))


if __name__ == "__main__":
    main()
