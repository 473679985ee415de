"""Rows of the tables in which `benchmarks.core` and `benchmarks.cpu_engines` compare engines."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.measure import Timings, interleaved
from lrclr.verification import centred_cosine, cosine, region_gap

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from lrclr.bundle import Golden
    from lrclr.checkpoints import Checkpoint
    from lrclr.engines import Engine

Row = dict[str, Any]


def pixels_of(golden: Golden, batch: int) -> NDArray[Any]:
    """`batch` images, ``[batch, 3, S, S]``; they repeat if there are fewer."""
    return np.resize(golden["pixel_values"], (batch, *golden["pixel_values"].shape[1:]))


def timing_row(what: str, candidate: str, timings: Timings, baseline: str, name: str) -> Row:
    """Milliseconds, times as fast as the baseline (median and quartiles of the rounds), and all samples."""
    return {
        "what": what,
        "candidate": candidate,
        "ms": round(timings.median_ms(name), 2),
        "baseline_ms": round(timings.median_ms(baseline), 2),
        "ratio": [round(value, 3) for value in timings.ratio(baseline, name)],
        "seconds": {one: timings.to_dict()[one] for one in (baseline, name)},
    }


def share_row(what: str, of: str, timings: Timings, whole: str, part: str) -> Row:
    """The time of `part` as a share of the time of `whole`: median and quartiles of the rounds."""
    low, middle, high = sorted(1 / ratio for ratio in timings.ratio(whole, part))
    return {
        "what": what,
        "of": of,
        "share": [round(value, 4) for value in (middle, low, high)],
        "ms": round(timings.median_ms(part), 2),
        "seconds": timings.to_dict(),
    }


def image_quality(engine: Engine, golden: Golden) -> Row:
    """How far the image encoder's answers are from PyTorch's."""
    answer = engine.run("image_encoder", {"pixel_values": golden["pixel_values"]})
    return {
        "cosine": cosine(answer["image_embedding"], golden["image_embedding"]),
        "centred_cosine": centred_cosine(answer["image_embedding"], golden["image_embedding"]),
        "regions_of_pytorch": region_gap(answer["region_index"], golden["rollout"])[1],
    }


def fusion_rows(
    engines: Mapping[str, Engine], checkpoint: Checkpoint, golden: Golden, batch: int, rounds: int
) -> list[Row]:
    """For each engine the time of the fusion head for the findings' prompts, as a share of the image encoder's."""
    prompts = checkpoint.tokenizer.encode(checkpoint.findings.prompts)
    count, length = prompts.input_ids.shape
    image: dict[str, NDArray[Any]] = {"pixel_values": golden["pixel_values"][:batch]}
    pairs: dict[str, NDArray[Any]] = {
        "region_tokens": golden["region_tokens"][:batch],
        "text_tokens": np.ascontiguousarray(golden["text_tokens"][:count, :length]),
        "text_mask": prompts.mask,
    }
    rows = []
    for name, engine in engines.items():
        work = {
            "image": partial(engine.run, "image_encoder", image),
            "fusion": partial(engine.run, "fusion_head", pairs),
        }
        timings = interleaved(work, rounds=rounds, warmup=1)
        what = f"fusion head, {count} prompts, batch {batch}, {name}"
        rows.append(share_row(what, "image encoder", timings, "image", "fusion"))
    return rows
