"""The core's speed against torch eager in float32, ViT-B/32: ``python -m benchmarks.core``.

Everything that is compared takes turns in one run; ratios are taken round by round. The baseline is transformers'
`CLIPModel` with eager attention, which selects no regions. Weights are random: they do not change the speed, and the
quality columns say only that the graphs compute what the network computes.
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
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.measure import Timings, environment, interleaved
from benchmarks.plain_clip import plain_clip
from lrclr._processors import processors
from lrclr.bundle import GRAPHS, Golden
from lrclr.checkpoints import Checkpoint, init_checkpoint
from lrclr.engines import OnnxRuntimeEngine
from lrclr.model import LrclrModel, Regions
from lrclr.samples import sample_paths
from lrclr.verification import _measure
from lrclr_export import ExportOptions, export_bundle
from lrclr_export.onnx.graphs import graph_specs
from lrclr_export.onnx.onnx_graph import typed_onnx_from_module
from lrclr_export.repository.golden import golden_from_checkpoint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import CLIPModel

TORCH = "torch eager fp32"
Row = dict[str, Any]
Arrays = dict[str, NDArray[Any]]


class _WithoutSelection(nn.Module):
    """The image encoder with the same gather, of fixed patches: what is left when region selection is taken out."""

    def __init__(self, model: LrclrModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        def first(maps: Sequence[Tensor], tokens: Tensor, top_k: int, mean: bool) -> Regions:  # noqa: ARG001
            rows = tokens[:, : self.model.config.num_regions + 1]
            return Regions(rows, rows, rows)

        embedding, regions = self.model.encode_image(pixel_values, select=first, prune=True)
        return embedding, regions.tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--name", default="core", help="file name of the results, without suffix")
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(processors())
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        report = _measure_all(Path(folder), options.rounds)
    options.output.mkdir(parents=True, exist_ok=True)
    stem = options.output / options.name
    stem.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    stem.with_suffix(".md").write_text(_markdown(report))
    print(_markdown(report))


def _measure_all(folder: Path, rounds: int) -> Row:
    with torch.inference_mode(False):
        checkpoint = init_checkpoint("vit-b-32")
        engines = _engines(checkpoint, folder)
    clip = _baseline(checkpoint)
    golden = golden_from_checkpoint(checkpoint)
    rows = [
        *_image_rows(clip, engines, golden, rounds),
        *_text_rows(clip, engines, checkpoint, golden, rounds),
        *_fusion_rows(engines, checkpoint, golden, rounds),
    ]
    return {"environment": environment(), "rows": rows, "start": _start_up(folder / "fp16")}


def _engines(checkpoint: Checkpoint, folder: Path) -> dict[str, OnnxRuntimeEngine]:
    threads = torch.get_num_threads()
    engines = {}
    for precision in ("fp32", "fp16"):
        bundle = export_bundle(checkpoint, folder / precision, ExportOptions(precision=precision))
        engines[precision] = OnnxRuntimeEngine(bundle, threads=threads)
    spec = graph_specs(checkpoint.model)[0]
    plain = replace(spec, module=_WithoutSelection(checkpoint.model), outputs=spec.outputs[:2])
    typed_onnx_from_module(plain, opset=20).save(folder / "plain.onnx")
    engines["fp32, fixed patches"] = OnnxRuntimeEngine({GRAPHS[0]: folder / "plain.onnx"}, threads=threads)
    return engines


def _baseline(checkpoint: Checkpoint) -> CLIPModel:
    clip = plain_clip(checkpoint)
    clip.set_attn_implementation("eager")
    return clip


def _image_rows(clip: CLIPModel, engines: dict[str, OnnxRuntimeEngine], golden: Golden, rounds: int) -> list[Row]:
    rows = []
    for batch in (1, 8, 32):
        pixels = np.resize(golden.pixel_values, (batch, *golden.pixel_values.shape[1:]))
        tensor = torch.from_numpy(pixels)

        candidates = {TORCH: partial(clip.get_image_features, pixel_values=tensor)}
        candidates |= {name: partial(engines[name].run, "image_encoder", {"pixel_values": pixels}) for name in engines}
        timings = interleaved(candidates, rounds=rounds if batch < 32 else max(6, rounds // 3))
        for name in engines:
            answer = engines[name].run("image_encoder", {"pixel_values": golden.pixel_values})["image_embedding"]
            rows.append(
                _row(f"image encoder, batch {batch}", f"ONNX Runtime {name}", timings, TORCH, name)
                | {
                    "cosine": _measure.cosine(answer, golden.image_embedding),
                    "centred_cosine": _measure.centred_cosine(answer, golden.image_embedding),
                }
            )
        share = timings.ratio("fp32", "fp32, fixed patches")
        rows.append(
            {
                "what": f"region selection, batch {batch}",
                "of": "share of the fp32 image encoder",
                "share": [round(1 - 1 / x, 4) for x in share],
            }
        )
    return rows


def _text_rows(
    clip: CLIPModel, engines: dict[str, OnnxRuntimeEngine], checkpoint: Checkpoint, golden: Golden, rounds: int
) -> list[Row]:
    prompts = checkpoint.findings.prompts
    padded = torch.from_numpy(checkpoint.tokenizer.encode(prompts, length=77).input_ids)
    trimmed = checkpoint.tokenizer.encode(prompts).input_ids
    candidates = {
        TORCH: lambda: clip.get_text_features(input_ids=padded),
        "fp32": lambda: engines["fp32"].run("text_encoder", {"input_ids": trimmed}),
        "fp16": lambda: engines["fp16"].run("text_encoder", {"input_ids": trimmed}),
    }
    timings = interleaved(candidates, rounds=max(6, rounds // 3))
    return [
        _row(
            f"{len(prompts)} prompts, {trimmed.shape[1]} tokens against 77",
            f"ONNX Runtime {name}",
            timings,
            TORCH,
            name,
        )
        | {
            "cosine": _measure.cosine(
                engines[name].run("text_encoder", {"input_ids": trimmed})["text_embedding"],
                golden.text_embedding[: len(prompts)],
            )
        }
        for name in ("fp32", "fp16")
    ]


def _fusion_rows(
    engines: dict[str, OnnxRuntimeEngine], checkpoint: Checkpoint, golden: Golden, rounds: int
) -> list[Row]:
    rows = []
    prompts = checkpoint.tokenizer.encode(checkpoint.findings.prompts)
    count, length = prompts.input_ids.shape
    for name in ("fp32", "fp16"):
        for batch in (1, 8):
            image: Arrays = {"pixel_values": golden.pixel_values[:batch]}
            pairs: Arrays = {
                "region_tokens": golden.region_tokens[:batch],
                "text_tokens": np.ascontiguousarray(golden.text_tokens[:count, :length]),
                "text_mask": prompts.mask,
            }
            run = engines[name].run
            work = {"image": partial(run, "image_encoder", image), "fusion": partial(run, "fusion_head", pairs)}
            timings = interleaved(work, rounds=rounds)
            share = timings.ratio("image", "fusion")
            rows.append(
                {
                    "what": f"fusion head, {count} prompts, batch {batch}, {name}",
                    "of": "share of the image encoder",
                    "share": [round(1 / x, 4) for x in share],
                    "ms": round(timings.median_ms("fusion"), 2),
                }
            )
    return rows


def _row(what: str, candidate: str, timings: Timings, baseline: str, name: str) -> Row:
    ratio = timings.ratio(baseline, name)
    return {
        "what": what,
        "candidate": candidate,
        "ms": round(timings.median_ms(name), 2),
        "torch_ms": round(timings.median_ms(baseline), 2),
        "ratio": [round(x, 3) for x in ratio],
        "seconds": timings.to_dict(),
    }


def _start_up(bundle: Path) -> Row:
    """Whole processes, from nothing to exit: seconds of each of five, after one that fills the page cache."""
    image = sample_paths()[0]
    commands = {
        "python -c 'pass'": [sys.executable, "-c", "pass"],
        "python -c 'import lrclr'": [sys.executable, "-c", "import lrclr"],
        "lrclr predict, one image": [
            sys.executable,
            "-c",
            "import sys; from lrclr.cli import main; sys.exit(main())",
            "predict",
            str(image),
            "-b",
            str(bundle),
        ],
    }
    times: Row = {}
    for name, command in commands.items():
        seconds = []
        for _ in range(6):
            begin = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            seconds.append(round(time.perf_counter() - begin, 3))
        times[name] = seconds[1:]
    return times


def _markdown(report: Row) -> str:
    env = report["environment"]
    machine = f"{env['processor']}, {env['threads']} threads, fp32 GEMM peak {env['fp32_gemm_gflops']} GFLOP/s"
    lines = [
        f"{machine}; torch {env['torch']}, ONNX Runtime {env['onnxruntime']}. Ratios: median of rounds (quartiles).",
        "",
        "| what | with | ms | torch eager fp32, ms | times faster | cosine to torch (centred) |",
        "|---|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        if "ratio" in row:
            quality = f"{row['cosine']:.6f}" + (f" ({row['centred_cosine']:.6f})" if "centred_cosine" in row else "")
            ratio, low, high = row["ratio"]
            lines.append(
                f"| {row['what']} | {row['candidate']} | {row['ms']:.1f} | {row['torch_ms']:.1f} "
                f"| {ratio:.2f} ({low:.2f}–{high:.2f}) | {quality} |"
            )
    lines += ["", "| what | of | share (quartiles) |", "|---|---|---|"]
    for row in report["rows"]:
        if "share" in row:
            middle, *quartiles = row["share"]
            low, high = sorted(quartiles)
            lines.append(f"| {row['what']} | {row['of']} | {middle:.1%} ({low:.1%}–{high:.1%}) |")
    lines += ["", "| command, cold process | seconds: median (min–max) of 5 |", "|---|---|"]
    for name, seconds in report["start"].items():
        lines.append(f"| `{name}` | {np.median(seconds):.2f} ({min(seconds):.2f}–{max(seconds):.2f}) |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
