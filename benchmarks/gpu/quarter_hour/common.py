"""Shared by the kit's commands: sizes, records, and times by CUDA graph replay."""

from __future__ import annotations

import argparse
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.gpu.quarter_hour.record import Record, nvidia_smi
from lrclr.model import Regions
from lrclr.model.regions import rollout_row

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor


@dataclass(frozen=True)
class Network:
    """Sizes of an image encoder."""

    name: str
    architecture: str
    image_size: int
    nodes: int
    layers: int
    heads: int
    width: int


NETWORKS = (
    Network("ViT-B/32 @224", "vit-b-32", 224, 50, 12, 12, 768),
    Network("ViT-B/16 @224", "vit-b-16", 224, 197, 12, 12, 768),
    Network("ViT-L/14 @336", "vit-l-14", 336, 577, 24, 16, 1024),
)
# For a dry run on a CPU.
TINY = (Network("ViT-B/32 @64", "vit-b-32", 64, 5, 12, 12, 768),)


def start(path: Path, command: str, device: str) -> Record:
    """A new record of a command.

    Args:
        path: the JSON file.
        command: name of the command.
        device: ``"cuda"`` or ``"cpu"``.
    """
    return Record(path, {"command": command, "environment": environment(device)})


def measure(record: Record, name: str, work: Callable[[], Any]) -> Any:
    """`Record.measure`; after a failure the memory that torch caches on the GPU is released."""
    result = record.measure(name, work)
    if result is None and torch.cuda.is_available():
        torch.cuda.empty_cache()
    return result


def environment(device: str) -> dict[str, Any]:
    """Versions, system and GPU."""
    found: dict[str, Any] = {
        "device": device,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.release()}",
    }
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found["gpu"] = {
            "name": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "cuda": torch.version.cuda,
        }
        found["nvidia_smi"] = nvidia_smi()
    return found


def milliseconds(works: Sequence[Callable[[], object]], device: str, *, seconds: float = 0.3) -> dict[str, float]:
    """Time of one call, on a GPU by replays of a CUDA graph that holds every one of `works` in turn.

    Args:
        works: the same work on different buffers, so that a cache does not hold all of the inputs.
        device: ``"cuda"`` or ``"cpu"``.
        seconds: approximate duration of the replays.

    Returns:
        Median, 5th and 95th percentile of a call's milliseconds over the replays, and the number of replays.
    """
    run = _graph(works) if device == "cuda" else lambda: [work() for work in works]
    once = _timed(run, device)
    rounds = max(5, min(200, int(seconds * 1e3 / max(once, 1e-3))))
    times = sorted(_timed(run, device) / len(works) for _ in range(rounds))
    return {
        "median": round(times[len(times) // 2], 5),
        "p5": round(times[len(times) // 20], 5),
        "p95": round(times[-1 - len(times) // 20], 5),
        "replays": rounds,
    }


def _graph(works: Sequence[Callable[[], object]]) -> Callable[[], object]:
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            for work in works:
                work()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = [work() for work in works]
    graph.replay()
    torch.cuda.synchronize()

    def replay(_kept: object = kept) -> None:
        graph.replay()

    return replay


def _timed(run: Callable[[], object], device: str) -> float:
    if device != "cuda":
        begun = time.perf_counter()
        run()
        return (time.perf_counter() - begun) * 1e3
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))


def copy_bandwidth(device: str) -> float:
    """Bytes a second, read plus written, of a large copy on the device."""
    source = torch.empty(1 << (31 if device == "cuda" else 24), dtype=torch.uint8, device=device).random_(0, 256)
    target = torch.empty_like(source)
    return 2 * source.numel() / (milliseconds([lambda: target.copy_(source)], device)["median"] / 1e3)


def select_unchecked(maps: Sequence[Tensor], tokens: Tensor, top_k: int, mean: bool, prefix: int = 1) -> Regions:
    """`lrclr.model.select_regions` without its check for NaN and infinity, which waits for the device."""
    values, index = (found.flatten(1) for found in rollout_row(maps, mean=mean, prefix=prefix).topk(top_k))
    rows = (index + prefix).unsqueeze(-1).expand(-1, -1, tokens.shape[-1])
    return Regions(torch.cat([tokens[:, :prefix], tokens.gather(1, rows)], dim=1), index, values)


def parser(description: str | None, name: str) -> argparse.ArgumentParser:
    """The options that the commands share."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("-o", "--output", type=Path, default=Path(f"{name}.json"), help="JSON file to write")
    made.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: a dry run with tiny sizes")
    return made
