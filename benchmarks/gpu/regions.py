"""Region selection on a GPU: ``python -m benchmarks.gpu.regions -o benchmarks/results/gpu/regions.json``.

The kernel against torch eager, ``torch.compile``, and the time that moving its bytes takes; and its share of the fp16
image encoder. Candidates take turns; ratios are taken round by round. With ``--device cpu`` it runs where there is no
GPU, which shows that it runs and nothing else: there the operator's CPU side takes the kernel's place.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from benchmarks.measure import environment, interleaved
from lrclr.checkpoints import ARCHITECTURES, init_checkpoint
from lrclr.engines import gpus
from lrclr.model import select_regions
from lrclr.model.region_op import select_regions_op

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from lrclr.checkpoints import Checkpoint


@dataclass(frozen=True)
class Network:
    """Sizes of an image encoder; `arch` and `image_size` build it."""

    name: str
    arch: str
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


def selection(network: Network, batch: int, *, device: str, rounds: int, bandwidth: float) -> dict[str, Any]:
    """Seconds of each candidate for one size, and how far the kernel is from float64.

    Args:
        network: whose maps are made at random.
        batch: images.
        device: in torch's words.
        rounds: that count.
        bandwidth: bytes a second, that the device moves.
    """
    maps, tokens = _inputs(network, batch, device)
    compiled = torch.compile(partial(_plain, top_k=1), dynamic=False)
    candidates: dict[str, Callable[[], object]] = {
        "kernel": lambda: select_regions_op(maps, tokens, 1, mean=False),
        "torch eager": lambda: _plain(maps, tokens, top_k=1),
        "torch.compile": lambda: compiled(maps, tokens),
    }
    with torch.inference_mode():
        timings = interleaved(
            {name: partial(_finished, work, device) for name, work in candidates.items()}, rounds=rounds, warmup=5
        )
        disagreement = _disagreement(maps, select_regions_op(maps, tokens, 1, mean=False))
    moved = sum(one.numel() * one.element_size() for one in maps) + 2 * tokens[:, :13].numel() * tokens.element_size()
    return {
        "network": network.name,
        "batch": batch,
        "median_ms": {name: round(timings.median_ms(name), 4) for name in candidates},
        "kernel_times_faster": {name: timings.ratio(name, "kernel") for name in candidates if name != "kernel"},
        "bytes": moved,
        "share_of_floor": round(moved / bandwidth * 1e3 / timings.median_ms("kernel"), 4),
        "largest_relative_error": disagreement,
        "seconds": timings.to_dict(),
    }


def share_of_encoder(network: Network, batch: int, *, device: str, rounds: int) -> dict[str, Any]:
    """What part of the fp16 image encoder the kernel takes."""
    checkpoint = _checkpoint(network)
    model = checkpoint.model.half().to(device)
    side = network.image_size
    pixels = torch.randn(batch, 3, side, side, device=device, dtype=torch.float16)
    maps, tokens = _inputs(network, batch, device)
    candidates = {
        "image encoder": lambda: model.encode_image(pixels, select=select_regions_op, prune=True),
        "kernel": lambda: select_regions_op(maps, tokens, 1, mean=False),
    }
    with torch.inference_mode():
        timings = interleaved(
            {name: partial(_finished, work, device) for name, work in candidates.items()}, rounds=rounds, warmup=3
        )
    share, low, high = (1 / one for one in timings.ratio("image encoder", "kernel"))
    return {"network": network.name, "batch": batch, "share": [share, high, low], "seconds": timings.to_dict()}


def bandwidth_of(device: str) -> float:
    """Bytes a second, read and written, of a copy on the device."""
    source = torch.empty(1 << 28, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    timings = interleaved({"copy": lambda: _finished(lambda: target.copy_(source), device)}, rounds=10)
    return float(2 * source.numel() / np.median(timings.seconds["copy"]))


def _checkpoint(network: Network) -> Checkpoint:
    vision = {**ARCHITECTURES[network.arch]["vision_config"], "image_size": network.image_size}
    return init_checkpoint(network.arch, vision_config=vision)


def _plain(maps: list[Tensor], tokens: Tensor, *, top_k: int) -> Any:
    return select_regions(maps, tokens, top_k, mean=False)


def _inputs(network: Network, batch: int, device: str) -> tuple[list[Tensor], Tensor]:
    random = torch.Generator(device).manual_seed(network.nodes)
    shape = (batch, network.heads, network.nodes, network.nodes)
    maps = [torch.rand(shape, generator=random, device=device).softmax(-1) for _ in range(network.layers - 1)]
    maps.append(torch.rand((*shape[:2], 1, network.nodes), generator=random, device=device).softmax(-1))
    tokens = torch.randn((batch, network.nodes, network.width), generator=random, device=device)
    return maps, tokens.half()


def _finished(work: Callable[[], object], device: str) -> None:
    work()
    if device != "cpu":
        torch.cuda.synchronize()


def _disagreement(maps: list[Tensor], found: Any) -> float:
    """Of the first image: how far importance is from float64's, and the pick from the best, relative to the best."""
    row = maps[-1][:1].double()
    for matrix in reversed(maps[:-1]):
        row = row @ matrix[:1].double()
    wanted = row[0, :, 0, 1:]
    best = wanted.max(-1).values
    picked = wanted.gather(1, found.index[0].reshape(-1, 1)).squeeze(1)
    errors = torch.stack([(picked - found.importance[0]).abs(), best - picked]) / best
    return float(errors.max())


def main() -> None:
    """Run and print as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 64, 256])
    parser.add_argument("--networks", type=int, default=len(NETWORKS), help="how many of them, from the smallest")
    given = parser.parse_args()
    if given.device != "cpu" and not torch.cuda.is_available():
        sys.exit("error: torch sees no GPU. With --device cpu this shows that it runs, and nothing else.")
    bandwidth = bandwidth_of(given.device)
    common = {"device": given.device, "rounds": given.rounds}
    result = {
        "environment": {**environment(), "gpus": [str(gpu) for gpu in gpus()], "bytes_a_second": round(bandwidth)},
        "device": given.device,
        "selection": [
            selection(network, batch, bandwidth=bandwidth, **common)
            for network in NETWORKS[: given.networks]
            for batch in given.batches
        ],
        "share_of_encoder": [
            share_of_encoder(network, batch, **common)
            for network in NETWORKS[: given.networks]
            for batch in given.batches[:2]
        ],
    }
    text = json.dumps(result, indent=1)
    print(text)
    if given.output is not None:
        given.output.parent.mkdir(parents=True, exist_ok=True)
        given.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
