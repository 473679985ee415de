"""How well lung lesions can be seen by a detector that knows their place and the machine.

::

    python -m benchmarks.phantom.known_place -o build/known_place --workers 2

A network that reads whole pictures must also find the place, so it cannot be expected to do better. Each picture with
a lesion is rendered a second time without it, everything else as it was. A small convolutional network learns to tell
such twins apart, from a crop around the place of the lesion, on other pictures of the machine of the external split.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn

from benchmarks.commands import reports_errors
from benchmarks.phantom import ct
from benchmarks.phantom.cases import FINDINGS
from benchmarks.phantom.make_dataset import Settings
from benchmarks.phantom.picture import Split, describe, make_picture
from lrclr.verification import auroc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from benchmarks.phantom.cases import Item

_SPLIT: Split = "external"
_FINDING = "Lung Lesion"
_SIZE = 224
_NEAR, _WIDE = 64, 128  # edges in pixels of the crop, and of a wider one that is reduced to the same size
_TESTED = 2000  # pictures of the external split of the data set
_EXTRA = 20_000  # number of the first picture of the training


class Twins(NamedTuple):
    """Pictures with a lesion and without it.

    Attributes:
        crops: uint8 ``[N, 2 twins (with, without), 2 crops (near, wide), 64, 64]``.
        items: the lesion of each pair.
        others: number of other findings of each pair.
    """

    crops: NDArray[np.uint8]
    items: list[Item]
    others: list[int]


def _rendered(numbers: list[int], seed: int, workers: int) -> NDArray[np.uint8]:
    """Crops of the pictures of these numbers, all of which have a lesion, with it and without it."""
    context = multiprocessing.get_context("spawn")
    crops = []
    with ProcessPoolExecutor(workers, context, _start, (seed,)) as pool:
        for at, pair in enumerate(pool.map(_pair, numbers, chunksize=4), 1):
            crops.append(pair)
            if at % 500 == 0:
                print(f"{at} of {len(numbers)} pairs", flush=True)
    return np.stack(crops)


_given: list[tuple[ct.Phantom, int]] = []  # of a worker process


def _start(seed: int) -> None:
    torch.set_num_threads(1)
    _given.append((ct.load_phantom(ct.data_folder(None), Settings({_SPLIT: 1}, _SIZE).spacing), seed))


def _pair(number: int) -> NDArray[np.uint8]:
    phantom, seed = _given[0]
    pictures = [make_picture(phantom, _SPLIT, seed, number, _SIZE, without=name) for name in (None, _FINDING)]
    place = pictures[0].mask >> FINDINGS.index(_FINDING) & 1
    row, column = (round(float(at.mean())) for at in np.nonzero(place))
    return np.stack([_crops(picture.pixels, row, column) for picture in pictures])


def _crops(pixels: NDArray[np.uint8], row: int, column: int) -> NDArray[np.uint8]:
    edge = _WIDE // 2
    padded = np.pad(pixels, edge)
    wide = Image.fromarray(padded[row : row + _WIDE, column : column + _WIDE])
    inner = (_WIDE - _NEAR) // 2
    near = wide.crop((inner, inner, inner + _NEAR, inner + _NEAR))
    return np.stack([np.asarray(near), np.asarray(wide.resize((_NEAR, _NEAR), Image.Resampling.BOX))])


def _network() -> nn.Module:
    """Logits ``[B]`` that a lesion is at the centre of crops ``[B, 2, 64, 64]``."""

    def block(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]

    widths = (2, 32, 64, 128, 128)
    layers = [
        layer
        for inputs, outputs in pairwise(widths)
        for layer in (*block(inputs, outputs, 2), *block(outputs, outputs, 1))
    ]
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.3), nn.LazyLinear(1), nn.Flatten(0))


def _trained(crops: NDArray[np.uint8], *, passes: int, seed: int) -> Callable[[NDArray[np.uint8]], NDArray[np.float64]]:
    """Train on pairs ``[N, 2, 2, 64, 64]``; returns a function from crops ``[M, 2, 64, 64]`` to scores ``[M]``."""
    torch.manual_seed(seed)
    model, batch = _network(), 64
    model(torch.zeros(2, *crops.shape[2:]))  # sets the size of the last layer
    rng = np.random.default_rng(seed)
    pairs, steps = torch.from_numpy(crops), passes * (len(crops) // batch)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    target = torch.tensor([1.0, 0.0]).repeat(batch)
    model.train()
    for step, chosen in zip(range(steps), _batches(rng, len(pairs), batch), strict=False):
        images = _standardized(_changed(pairs[chosen].flatten(0, 1), rng))
        loss = nn.functional.binary_cross_entropy_with_logits(model(images), target)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch declares no types
        optimizer.step()
        schedule.step()
        if step % 200 == 0:
            print(f"step {step} of {steps}: loss {loss.item():.3f}", flush=True)
    model.eval()

    def scores(tested: NDArray[np.uint8]) -> NDArray[np.float64]:
        with torch.inference_mode():
            parts = [_standardized(torch.from_numpy(part)) for part in np.array_split(tested, 16)]
            found: NDArray[np.float64] = (
                torch.cat([model(part) + model(part.flip(-1)) for part in parts]).double().numpy()
            )
        return found

    return scores


def _reduced(crops: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    rows = crops.shape[-1] // factor
    blocks = crops.reshape(*crops.shape[:-2], rows, factor, rows, factor)
    means: NDArray[np.float32] = blocks.mean((-3, -1), dtype=np.float32)
    reduced: NDArray[np.uint8] = np.rint(means).astype(np.uint8)
    return reduced


def _batches(rng: np.random.Generator, count: int, batch: int) -> Iterator[NDArray[np.int64]]:
    while True:
        yield from rng.permutation(count)[: count // batch * batch].reshape(-1, batch)


def _changed(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Mirror half of the batches, and move all by up to 4 pixels."""
    if rng.random() < 0.5:
        images = images.flip(-1)
    return images.roll(tuple(rng.integers(-4, 5, 2).tolist()), (-2, -1))


def _standardized(images: Tensor) -> Tensor:
    images = images.float()
    mean, spread = images.mean((-2, -1), keepdim=True), images.std((-2, -1), keepdim=True)
    return (images - mean) / (spread + 1)


def _report(scores: NDArray[np.float64], pairs: Twins) -> dict[str, object]:
    """AUROC of the lesions of each kind against all twins without a lesion, and the share of pairs in right order."""
    present, absent = scores[:, 0], scores[:, 1]
    found: dict[str, object] = {}
    groups: dict[str, list[bool]] = {"all": [True] * len(pairs.items)}
    for attribute in ("size", "lobe"):
        for value in sorted({getattr(item, attribute) for item in pairs.items}):
            groups[f"{attribute}: {value}"] = [getattr(item, attribute) == value for item in pairs.items]
    groups["the only finding"] = [others == 0 for others in pairs.others]
    groups["beside others"] = [others > 0 for others in pairs.others]
    rng = np.random.default_rng(0)
    for name, chosen in groups.items():
        mine = np.flatnonzero(chosen)
        drawn = [rng.choice(mine, len(mine)) for _ in range(1000)]
        others = [rng.choice(len(absent), len(absent)) for _ in range(1000)]
        values = [_auroc(present[a], absent[b]) for a, b in zip(drawn, others, strict=True)]
        found[name] = {
            "lesions": len(mine),
            "auroc": round(_auroc(present[mine], absent), 4),
            "interval": [round(float(at), 4) for at in np.quantile(values, (0.025, 0.975))],
            "pairs_in_order": round(float((present[mine] > absent[mine]).mean()), 4),
        }
    return found


def _auroc(present: NDArray[np.float64], absent: NDArray[np.float64]) -> float:
    return auroc(np.repeat([True, False], [len(present), len(absent)]), np.r_[present, absent])


def _with_lesion(first: int, seed: int, *, count: int | None = None, last: int | None = None) -> list[int]:
    numbers: list[int] = []
    at = first
    while (count is None or len(numbers) < count) and (last is None or at < last):
        if _FINDING in describe(_SPLIT, seed, at)[0].names:
            numbers.append(at)
        at += 1
    return numbers


@reports_errors
def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.phantom.known_place", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the pairs and of the report")
    parser.add_argument("--pairs", type=int, default=6000, help="pairs to learn from (6000)")
    parser.add_argument("--passes", type=int, default=20, help="passes over them (20)")
    parser.add_argument("--pixels", type=int, choices=(224, 112), default=224, help="edge of a picture in pixels (224)")
    parser.add_argument("--workers", type=int, default=1, help="processes that render (1)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the data set (0)")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    chosen = {
        "train": _with_lesion(_EXTRA, options.seed, count=options.pairs),
        "test": _with_lesion(0, options.seed, last=_TESTED),
    }
    parts = {name: _kept(options.output / f"{name}.npz", numbers, options) for name, numbers in chosen.items()}
    crops, tested = (_reduced(part.crops, _SIZE // options.pixels) for part in parts.values())
    scores = _trained(crops, passes=options.passes, seed=options.seed)
    values = scores(tested.reshape(-1, *tested.shape[2:])).reshape(-1, 2)
    report = {
        "pixels": options.pixels,
        "pairs": options.pairs,
        "passes": options.passes,
        "lesions": _report(values, parts["test"]),
    }
    (options.output / f"report_{options.pixels}.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=2))
    return 0


def _kept(path: Path, numbers: list[int], options: argparse.Namespace) -> Twins:
    """Pairs from a file, which is made if it is not there."""
    if not path.exists():
        np.savez(path, crops=_rendered(numbers, options.seed, options.workers))
    cases = [describe(_SPLIT, options.seed, number)[0] for number in numbers]
    items = [next(item for item in case.items if item.name == _FINDING) for case in cases]
    with np.load(path) as file:
        return Twins(file["crops"], items, [len(case.items) - 1 for case in cases])


if __name__ == "__main__":
    sys.exit(main())
