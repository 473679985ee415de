"""The engines' speed against torch eager in float32, ViT-B/32: ``python -m benchmarks.core``, or `make bench`.

All candidates take turns in one run, and ratios are taken round by round. The baseline is transformers' `CLIPModel`
with eager attention, which selects no regions. Weights are random: they do not change the speed, and the quality
columns show only that the graphs compute the same function as the network.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.measure import alone, environment, interleaved, page
from benchmarks.plain_clip import plain_clip
from benchmarks.rows import Row, fusion_rows, image_quality, pixels_of, share_row, timing_row
from lrclr._processors import processors
from lrclr.bundle import GRAPHS, Golden
from lrclr.checkpoints import Checkpoint, init_checkpoint
from lrclr.engines import OnnxRuntimeEngine
from lrclr.model import LrclrModel, Regions
from lrclr.samples import sample_paths
from lrclr.verification import cosine
from lrclr_export import ExportOptions, export_bundle
from lrclr_export.onnx.graphs import graph_specs
from lrclr_export.onnx.onnx_graph import typed_onnx_from_module
from lrclr_export.repository.golden import golden_from_checkpoint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import CLIPModel

TORCH, FIXED = "torch eager fp32", "fp32, fixed patches"
PRECISIONS = ("fp32", "fp16")


class _WithoutSelection(nn.Module):
    """The image encoder with fixed patches in place of region selection, to measure what the selection takes."""

    def __init__(self, model: LrclrModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        def first(maps: Sequence[Tensor], tokens: Tensor, top_k: int, mean: bool, prefix: int) -> Regions:  # noqa: ARG001
            rows = tokens[:, : self.model.config.num_regions + 1]
            return Regions(rows, rows, rows)

        image = self.model.encode_image(pixel_values, select=first, prune=True)
        return image.embedding, image.regions.tokens


def main() -> None:
    """Measure, and write JSON and a page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results"), help="folder of the results")
    parser.add_argument("--name", default="core", help="file name of the results, without suffix")
    parser.add_argument("--rounds", type=int, default=20, help="rounds of turns")
    options = parser.parse_args()
    torch.set_num_threads(processors())
    with alone(), tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        report = _measure_all(Path(folder), options.rounds)
    report["command"] = f"python -m benchmarks.core --rounds {options.rounds}"
    options.output.mkdir(parents=True, exist_ok=True)
    stem = options.output / options.name
    stem.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    stem.with_suffix(".md").write_text(page("core.md", **report))
    print(page("core.md", **report))


def _measure_all(folder: Path, rounds: int) -> Row:
    with torch.inference_mode(False):
        checkpoint = init_checkpoint("vit-b-32")
        engines = _engines(checkpoint, folder)
    clip = plain_clip(checkpoint)
    clip.set_attn_implementation("eager")
    golden = golden_from_checkpoint(checkpoint)
    ratios, shares = _image_rows(clip, engines, golden, rounds)
    ratios += _text_rows(clip, engines, checkpoint, golden, max(6, rounds // 3))
    whole = {precision: engines[precision] for precision in PRECISIONS}
    for batch in (1, 8):
        shares += fusion_rows(whole, checkpoint, golden, batch, rounds)
    return {
        "environment": environment(),
        "ratios": ratios,
        "shares": shares,
        "start": _start_up(folder / "fp16"),
    }


def _engines(checkpoint: Checkpoint, folder: Path) -> dict[str, OnnxRuntimeEngine]:
    threads = torch.get_num_threads()
    engines = {}
    for precision in PRECISIONS:
        bundle = export_bundle(checkpoint, folder / precision, ExportOptions(precision=precision))
        engines[precision] = OnnxRuntimeEngine(bundle, threads=threads)
    spec = graph_specs(checkpoint.model)[0]
    plain = replace(spec, module=_WithoutSelection(checkpoint.model), outputs=spec.outputs[:2])
    typed_onnx_from_module(plain, opset=20).save(folder / "plain.onnx")
    engines[FIXED] = OnnxRuntimeEngine({GRAPHS[0]: folder / "plain.onnx"}, threads=threads)
    return engines


def _image_rows(
    clip: CLIPModel, engines: dict[str, OnnxRuntimeEngine], golden: Golden, rounds: int
) -> tuple[list[Row], list[Row]]:
    quality = {name: image_quality(engines[name], golden) for name in PRECISIONS}
    ratios, shares = [], []
    for batch in (1, 8, 32):
        pixels = pixels_of(golden, batch)
        candidates = {TORCH: partial(clip.get_image_features, pixel_values=torch.from_numpy(pixels))}
        candidates |= {name: partial(engines[name].run, "image_encoder", {"pixel_values": pixels}) for name in engines}
        timings = interleaved(candidates, rounds=rounds if batch < 32 else max(6, rounds // 3))
        for name in PRECISIONS:
            what = f"image encoder with regions, batch {batch}"
            ratios.append(timing_row(what, f"ONNX Runtime {name}", timings, TORCH, name) | quality[name])
        rest = share_row(f"region selection, batch {batch}", "fp32 image encoder", timings, "fp32", FIXED)
        middle, low, high = rest["share"]
        shares.append({**rest, "share": [round(1 - share, 4) for share in (middle, high, low)]})
    return ratios, shares


def _text_rows(
    clip: CLIPModel, engines: dict[str, OnnxRuntimeEngine], checkpoint: Checkpoint, golden: Golden, rounds: int
) -> list[Row]:
    prompts = checkpoint.findings.prompts
    padded = torch.from_numpy(checkpoint.tokenizer.encode(prompts, length=77).input_ids)
    trimmed = checkpoint.tokenizer.encode(prompts).input_ids
    runs = {name: partial(engines[name].run, "text_encoder", {"input_ids": trimmed}) for name in PRECISIONS}
    timings = interleaved({TORCH: partial(clip.get_text_features, input_ids=padded), **runs}, rounds=rounds)
    what = f"{len(prompts)} prompts, {trimmed.shape[1]} tokens against 77"
    return [
        timing_row(what, f"ONNX Runtime {name}", timings, TORCH, name)
        | {"cosine": cosine(run()["text_embedding"], golden["text_embedding"][: len(prompts)])}
        for name, run in runs.items()
    ]


def _start_up(bundle: Path) -> Row:
    """Seconds of whole processes, five of each command, after one that fills the page cache."""
    lrclr = ["-c", "import sys; from lrclr.cli import main; sys.exit(main())"]
    commands = {
        "python -c 'pass'": ["-c", "pass"],
        "python -c 'import lrclr'": ["-c", "import lrclr"],
        "lrclr predict, one image": [*lrclr, "predict", str(sample_paths()[0]), "-b", str(bundle)],
    }
    times: Row = {}
    for name, command in commands.items():
        seconds = []
        for _ in range(6):
            begin = time.perf_counter()
            subprocess.run([sys.executable, *command], check=True, capture_output=True)
            seconds.append(round(time.perf_counter() - begin, 3))
        times[name] = {"seconds": seconds[1:], "median": float(np.median(seconds[1:]))}
    return times


if __name__ == "__main__":
    main()
