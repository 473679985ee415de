"""Command 1: correctness and speed of the region kernel. ``python -m benchmarks.gpu.quarter_hour.kernel``.

Sections:
  correctness  each form of the kernel against float64 on the device, at many token counts and both rollouts
  time         each form by CUDA graph replay, against the time that moving its bytes takes, and torch eager
  compiled     the same work by torch.compile, last since it takes long to compile

``--sanitize`` runs a few small calls only, under NVIDIA's compute-sanitizer.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.gpu.launch import capability, launch
from benchmarks.gpu.quarter_hour.common import (
    NETWORKS,
    TINY,
    Network,
    copy_bandwidth,
    measure,
    milliseconds,
    parser,
    select_unchecked,
    start,
)
from lrclr._kernels import Form, forms_for
from lrclr.model import select_regions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from benchmarks.gpu.quarter_hour.record import Record

BATCHES = (1, 8, 64)
SCALE = 0.125
TOP_K = 3


class Case:
    """Random queries, keys, start row and tokens; attention maps are made from them.

    Args:
        nodes: number of tokens.
        layers: number of layers, with the last one.
        heads: heads of a layer.
        batch: number of images.
        device: torch's name of the device.
        seed: seed of the random numbers.
        merged: whether queries and keys are views of one tensor, as after a merged product.
        width: width of the tokens.
        deviation: standard deviation of a score; a larger one makes attention sharper.
    """

    def __init__(  # noqa: PLR0913 - the sizes of a network
        self,
        nodes: int,
        layers: int,
        heads: int,
        batch: int,
        *,
        device: str = "cuda",
        seed: int = 0,
        merged: bool = False,
        width: int = 64,
        deviation: float = 2.0,
    ) -> None:
        random = torch.Generator(device).manual_seed(seed)
        self.queries, self.keys = [], []
        parts = 3 if merged else 1
        for _ in range(layers - 1):
            if merged:
                together = torch.randn(batch, nodes, parts, heads, 64, generator=random, device=device)
                together = (together * deviation**0.5).half()
                self.queries.append(together[:, :, 0])
                self.keys.append(together[:, :, 1])
            else:
                for half in (self.queries, self.keys):
                    one = torch.randn(batch, nodes, heads, 64, generator=random, device=device) * deviation**0.5
                    half.append(one.half())
        scores = 2 * torch.randn(batch, heads, nodes, generator=random, device=device)
        self.start = scores.softmax(-1)
        self.tokens = torch.randn(batch, nodes, width, generator=random, device=device).to(torch.float16)

    def maps(self, kind: torch.dtype = torch.float32) -> list[Tensor]:
        """Attention maps ``[B, H, N, N]`` of the layers, and the start row as the last one."""
        made = [
            (query.to(kind).transpose(1, 2) @ key.to(kind).permute(0, 2, 3, 1) * SCALE).softmax(-1)
            for query, key in zip(self.queries, self.keys, strict=True)
        ]
        return [*made, self.start[:, :, None].to(kind)]

    def importance(self, *, mean: bool, prefix: int) -> Tensor:
        """``[B, G, N]`` in float64, a layer's maps at a time."""
        nodes = self.start.shape[-1]
        row = self.start.double()[:, :, None]
        if mean:
            row = row.mean(1, keepdim=True)
            row = (row + torch.eye(1, nodes, device=row.device)) / 2 if prefix else row
        identity = torch.eye(nodes, device=self.start.device)
        for query, key in zip(reversed(self.queries), reversed(self.keys), strict=True):
            scores = query.double().transpose(1, 2) @ key.double().permute(0, 2, 3, 1) * SCALE
            row = row @ _mixed(scores.softmax(-1), identity, mean=mean)
        return row[:, :, 0]


def _mixed(maps: Tensor, identity: Tensor, *, mean: bool) -> Tensor:
    return (maps.mean(1, keepdim=True) + identity) / 2 if mean else maps


def errors(case: Case, found: Sequence[Tensor], *, mean: bool, prefix: int, top_k: int) -> dict[str, Any]:
    """Distance of a selection from float64's, of the most important patch's; and whether the tokens are right."""
    tokens, index, values = found
    wanted = case.importance(mean=mean, prefix=prefix)[:, :, prefix:]
    index = index.reshape(*wanted.shape[:2], top_k)
    values = values.reshape(index.shape).double()
    scale = wanted.max(-1, keepdim=True).values
    picked = wanted.gather(-1, index)
    best = wanted.sort(-1, descending=True).values[..., :top_k]
    rows = torch.cat([torch.zeros_like(index.flatten(1)[:, :prefix]), index.flatten(1) + prefix], 1)
    gathered = case.tokens.gather(1, rows[..., None].expand(-1, -1, case.tokens.shape[-1]))
    return {
        "importance": float(((values - picked).abs() / scale).max()),
        "missed": float(((best - picked) / scale).max()),
        "tokens_equal": bool(torch.equal(tokens, gathered)),
        "finite": bool(torch.isfinite(values).all()),
    }


def correctness(record: Record, device: str) -> None:
    """Each form that takes a number of tokens."""
    sizes = [(50, 12, 12), (64, 3, 4), (33, 2, 3), (197, 12, 12), (257, 4, 4), (577, 24, 16), (729, 3, 4), (1025, 3, 4)]
    if device == "cpu":
        sizes = [(5, 3, 2)]
    for number, (nodes, layers, heads) in enumerate(sizes):
        for mean in (False, True):
            merged, prefix, batch = number % 2 == 1, int(nodes not in {64, 729}), 3 if nodes < 500 else 2
            common = {"nodes": nodes, "layers": layers, "mean": mean, "merged": merged, "prefix": prefix}
            case = Case(nodes, layers, heads, batch, device=device, merged=merged, seed=number)
            for kernel, run in _kernels(case, device, mean=mean, prefix=prefix).items():
                name = f"correctness: {kernel}, {nodes} tokens, {'mean' if mean else 'per head'}"
                found = measure(record, name, partial(_checked, case, run, {**common, "kernel": kernel}))
                if found is not None and not found["right"]:
                    record.fail(f"{name}: is right", "see the measurement before")


def _checked(case: Case, run: Callable[[], Any], about: dict[str, Any]) -> dict[str, Any]:
    found, again = run(), run()
    same = all(torch.equal(one, other) for one, other in zip(found, again, strict=True))
    measured = errors(case, found, mean=about["mean"], prefix=about["prefix"], top_k=TOP_K)
    right = measured["importance"] < 5e-5 and measured["missed"] < 1e-4
    right = right and measured["tokens_equal"] and measured["finite"] and same
    return {**about, **measured, "repeatable": same, "right": right}


def _kernels(case: Case, device: str, *, mean: bool, prefix: int) -> dict[str, Callable[[], Any]]:
    if device == "cpu":
        maps = case.maps()
        return {"torch": lambda: select_regions(maps, case.tokens, TOP_K, mean)} if prefix else {}
    forms = forms_for(case.start.shape[-1], capability())
    return {form.name: _selection(case, form, mean=mean, prefix=prefix) for form in forms}


def _selection(case: Case, form: Form, *, mean: bool = False, prefix: int = 1, top_k: int = TOP_K) -> Callable[[], Any]:
    return lambda: launch(
        case.queries, case.keys, case.start, case.tokens, top_k, mean, prefix=prefix, scale=SCALE, form=form
    )


def times(record: Record, device: str, networks: Sequence[Network], batches: Sequence[int]) -> None:
    """The kernel and torch eager, against the time that moving their bytes takes."""
    found = measure(record, "bandwidth", lambda: {"bytes_a_second": round(copy_bandwidth(device))})
    if found is None:
        return
    for network in networks:
        for batch in batches:
            try:
                _time(record, device, network, batch, found["bytes_a_second"])
            except torch.OutOfMemoryError as error:
                record.fail(f"time: {network.name}, batch {batch}", str(error))
                torch.cuda.empty_cache()


def _time(record: Record, device: str, network: Network, batch: int, bandwidth: float) -> None:
    pairs = network.layers - 1
    qk_bytes = pairs * 2 * batch * network.nodes * network.heads * 64 * 2
    maps_bytes = pairs * batch * network.heads * network.nodes**2 * 4
    # More bytes in all than the L2 cache holds, unless that takes very many cases.
    count = 1 if device == "cpu" else max(1, min(16, (1 << 28) // qk_bytes))
    sizes = (network.nodes, network.layers, network.heads, batch)
    cases = [Case(*sizes, device=device, width=network.width, seed=seed) for seed in range(count)]

    def add(kernel: str, moved: int, works: list[Callable[[], Any]]) -> None:
        def timed() -> dict[str, Any]:
            took = milliseconds(works, device)
            floor = moved / bandwidth * 1e3
            about = {"network": network.name, "batch": batch, "kernel": kernel, "ms": took, "bytes": moved}
            return {**about, "floor_ms": round(floor, 5), "floor_share": round(floor / took["median"], 4)}

        measure(record, f"time: {kernel}, {network.name}, batch {batch}", timed)

    if device == "cuda":
        for form in forms_for(network.nodes, capability()):
            add(form.name, qk_bytes, [_selection(case, form, top_k=1) for case in cases])
    if maps_bytes > 40 << 30:
        return
    count = max(1, min(count, (1 << 28) // maps_bytes))
    made = [(case.maps(), case.tokens) for case in cases[:count]]
    add("torch eager, from maps", maps_bytes, [partial(_eager, maps, tokens) for maps, tokens in made])
    half = torch.float16 if device == "cuda" else torch.float32
    add("torch eager, from queries and keys", qk_bytes, [lambda: _eager(cases[0].maps(half), cases[0].tokens)])


def _eager(maps: list[Tensor], tokens: Tensor) -> Tensor:
    return select_unchecked(maps, tokens, 1, mean=False).tokens


def compiled(record: Record, device: str, networks: Sequence[Network], batches: Sequence[int]) -> None:
    """torch.compile of the selection from maps, at each size."""

    def timed(network: Network, batch: int) -> dict[str, Any]:
        case = Case(network.nodes, network.layers, network.heads, batch, device=device, width=network.width)
        torch._dynamo.reset()  # noqa: SLF001 - the public torch.compiler.reset does the same and more
        run = partial(torch.compile(_eager, dynamic=False), case.maps(), case.tokens)
        return {"network": network.name, "batch": batch, "ms": milliseconds([run], device)}

    for network in networks:
        for batch in batches:
            if network.nodes != 577 or batch <= 8:
                measure(record, f"compiled: {network.name}, batch {batch}", partial(timed, network, batch))


def sanitize() -> None:
    """Small calls of every form, for compute-sanitizer."""
    for nodes, layers, heads in ((50, 4, 2), (197, 2, 2), (577, 2, 1), (1025, 2, 1)):
        case = Case(nodes, layers, heads, 2)
        for name, run in _kernels(case, "cuda", mean=False, prefix=1).items():
            found = errors(case, run(), mean=False, prefix=1, top_k=TOP_K)
            torch.cuda.synchronize()
            print(nodes, name, found, flush=True)


def main() -> None:
    """Run the sections."""
    options = parser(__doc__, "kernel")
    sections = ["correctness", "time", "compiled"]
    options.add_argument("--only", nargs="+", choices=sections, default=sections, help="sections to run; default: all")
    options.add_argument("--sanitize", action="store_true", help="run a few small calls only, for compute-sanitizer")
    given = options.parse_args()
    if given.sanitize:
        sanitize()
        return
    record = start(given.output, "kernel", given.device)
    networks, batches = (TINY, (1,)) if given.device == "cpu" else (NETWORKS, BATCHES)
    with torch.inference_mode():
        if "correctness" in given.only:
            correctness(record, given.device)
        if "time" in given.only:
            times(record, given.device, networks, batches)
        if "compiled" in given.only and given.device == "cuda":
            compiled(record, given.device, networks, batches)
    sys.exit(int(bool(record.failed)))


if __name__ == "__main__":
    main()
