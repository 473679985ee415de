"""Tests scoring of a large archive: ``python -m benchmarks.score.run WORK make|local|faults|pace``.

Each step takes minutes. `benchmarks/results/score` describes a run of all steps.

- ``make``: writes thousands of small radiographs, one in fifty damaged, and two bundles: the smallest network's and the
  default checkpoint's.
- ``local``: scores all of them in one process. The other steps are compared with this.
- ``faults``: scores them on a Ray cluster of three nodes, while an actor is killed, a node is removed, the driver is
  killed and started again, and a disk is full.
- ``pace``: `--runner local` and Ray on one node, in turns, and two actors against one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pyarrow.parquet as pq

from benchmarks.score.images import DAMAGED_EVERY, make_images
from lrclr._processors import processors

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

RESULTS = Path(__file__).parents[1] / "results" / "score"
ROWS_PER_PART = 500
PACED = 600


def main() -> None:
    """Run one step and write its result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder of images, bundles and scores")
    parser.add_argument("step", choices=("make", "local", "faults", "pace"))
    parser.add_argument("--images", type=int, default=20_000, help="number of images that `make` writes")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of turns of `pace`")
    chosen = parser.parse_args()
    steps: dict[str, Callable[[], dict[str, Any]]] = {
        "make": lambda: make(chosen.work, chosen.images),
        "local": lambda: local(chosen.work),
        "faults": lambda: faults(chosen.work),
        "pace": lambda: pace(chosen.work, chosen.rounds),
    }
    found = steps[chosen.step]()
    RESULTS.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**found, "machine": machine()}, indent=1)
    (RESULTS / f"{chosen.step}.json").write_text(text + "\n", encoding="utf-8")
    print(text)


def make(work: Path, number: int) -> dict[str, Any]:
    from lrclr.checkpoints import init_checkpoint, load_checkpoint
    from lrclr_export import ExportOptions, export_bundle

    begin = time.monotonic()
    make_images(work / "images", number, 64)
    make_images(work / "paced", PACED, 512)
    export_bundle(init_checkpoint("tiny"), work / "tiny", ExportOptions("fp32"))
    export_bundle(load_checkpoint("default"), work / "default", ExportOptions("fp32"))
    return {"images": number, "damaged": len(range(0, number, DAMAGED_EVERY)), "seconds": time.monotonic() - begin}


def local(work: Path) -> dict[str, Any]:
    result = finished(driver(work, "local"))
    return {**result, **rows_of(work / "local", work / "images"), "bytes_a_row": bytes_a_row(work / "local")}


def faults(work: Path) -> dict[str, Any]:
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 200 << 20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    nodes = [cluster.add_node(**node) for _ in range(2)]
    out, events = work / "ray", []
    begin = time.monotonic()

    def note(event: str) -> None:
        events.append({"after": round(time.monotonic() - begin, 1), "parts": parts(out), "event": event})
        print(events[-1], file=sys.stderr, flush=True)

    try:
        call = ("--ray", "--address", cluster.address)
        total = -(-sum(1 for _ in (work / "images").rglob("*.png")) // ROWS_PER_PART)
        process = driver(work, "ray", *call)
        until(process, lambda: parts(out) >= total // 6)
        kill_an_actor()
        note("an actor killed")
        until(process, lambda: parts(out) >= total // 3)
        cluster.remove_node(nodes[0], allow_graceful=False)
        note("a node removed")
        until(process, lambda: parts(out) >= total // 2)
        process.kill()
        process.wait()
        note("the driver killed")
        refused = driver(work, "ray", *call, "--largest-file", "20000")
        result, _ = refused.communicate()
        error = json.loads(result)["error"].replace(str(work), "WORK")
        note(f"a full disk, exit code {refused.returncode}: {error}")
        done = finished(driver(work, "ray", *call))
        note("finished")
    finally:
        cluster.shutdown()
    same = all(
        pq.read_table(path)
        .replace_schema_metadata(None)
        .equals(pq.read_table(out / path.name).replace_schema_metadata(None))
        for path in (work / "local").glob("part-*.parquet")
    )
    return {"events": events, "last_run": done, **rows_of(out, work / "images"), "same_rows_as_local": same}


def pace(work: Path, rounds: int) -> dict[str, Any]:
    """Pace of each runner without its start; see `driver`. All of them use all cores of this machine."""
    kinds: dict[str, tuple[str, ...]] = {
        "local": (),
        "ray": ("--ray",),
        "ray, one actor": ("--ray", "--actors", "1"),
    }
    result: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
    for number in range(rounds):
        order = list(kinds)[number % 3 :] + list(kinds)[: number % 3]
        for kind in order:
            name = f"pace-{number}-{kind.replace(', ', '-').replace(' ', '-')}"
            result[kind].append(finished(driver(work, name, *kinds[kind], source="paced", bundle="default")))
    rates = {kind: np.array([one["rate"] for one in result[kind]]) for kind in kinds}
    return {
        "runs": result,
        "ray_to_local": spread(rates["ray"] / rates["local"]),
        "all_actors_to_one": spread(rates["ray"] / rates["ray, one actor"]),
    }


def driver(
    work: Path, output: str, *arguments: str, source: str = "images", bundle: str = "tiny"
) -> subprocess.Popen[str]:
    where = [str(work / name) for name in (source, output, bundle)]
    size = str(ROWS_PER_PART if source == "images" else 100)
    command = [sys.executable, "-m", "benchmarks.score.driver", *where, "--rows-per-part", size, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def finished(process: subprocess.Popen[str]) -> dict[str, Any]:
    result, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"a run ended with exit code {process.returncode}: {result}")
    found: dict[str, Any] = json.loads(result)
    return found


def until(process: subprocess.Popen[str], met: Callable[[], bool]) -> None:
    while not met():
        if process.poll() is not None:
            raise SystemExit(f"the run ended with exit code {process.returncode} too early")
        time.sleep(0.05)


def kill_an_actor() -> None:
    family = psutil.Process().children(recursive=True)
    actors = [one for one in family if "MapWorker" in " ".join(one.cmdline())]
    actors[0].kill()


def parts(folder: Path) -> int:
    return len(list(folder.glob("part-*.parquet")))


def rows_of(folder: Path, images: Path) -> dict[str, Any]:
    table = pq.read_table(folder, columns=["file", "status"])
    found = sorted(table["file"].to_pylist())
    wanted = sorted(str(path.relative_to(images)) for path in images.rglob("*.png"))
    return {
        "rows": len(found),
        "every_file_has_exactly_one": found == wanted,
        "failed_rows": table["status"].to_pylist().count("failed"),
    }


def bytes_a_row(folder: Path) -> float:
    files = list(folder.glob("part-*.parquet"))
    rows: int = sum(pq.read_metadata(file).num_rows for file in files)
    return round(sum(file.stat().st_size for file in files) / rows, 1)


def spread(values: Sequence[float] | Any) -> dict[str, float]:
    low, middle, high = (round(float(each), 3) for each in np.percentile(values, (0, 50, 100)))
    return {"median": middle, "least": low, "most": high}


def machine() -> dict[str, Any]:
    import onnxruntime
    import pyarrow as pa
    import ray

    name = next(line for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if "model name" in line)
    return {
        "processor": name.partition(":")[2].strip(),
        "cores": processors(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30),
        "onnxruntime": onnxruntime.__version__,
        "ray": ray.__version__,
        "pyarrow": pa.__version__,
    }


if __name__ == "__main__":
    main()
