"""Our graphs in OpenVINO and ONNX Runtime against OpenVINO straight, ViT-B/32: ``python -m benchmarks.cpu_engines``.

"OpenVINO straight" is transformers' CLIP image tower, without regions, exported by torch.onnx and compiled by OpenVINO
in the same precision. Everything that is compared takes turns in one run; ratios are taken round by round. Weights are
random: they do not change the speed, and the quality columns say only that the graphs compute what the network does.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.measure import Timings, environment, interleaved
from benchmarks.plain_clip import plain_clip
from lrclr._processors import processors
from lrclr.bundle import GRAPHS, Golden
from lrclr.checkpoints import Checkpoint, init_checkpoint
from lrclr.engines import OnnxRuntimeEngine, OpenVINOEngine
from lrclr.engines._openvino_library import openvino_library, release
from lrclr.verification import _measure
from lrclr_export.onnx.graphs import graph_specs
from lrclr_export.onnx.onnx_graph import typed_onnx_from_module
from lrclr_export.repository.golden import golden_from_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from lrclr.engines import Engine

STRAIGHT, TORCH = "OpenVINO straight, no regions", "torch eager, no regions"
OURS = ("OpenVINO", "ONNX Runtime")
Row = dict[str, Any]


class _PlainTower(nn.Module):
    def __init__(self, clip: Any) -> None:
        super().__init__()
        self.clip = clip

    def forward(self, pixel_values: Tensor) -> Tensor:
        pooled = self.clip.vision_model(pixel_values=pixel_values).pooler_output
        embedding: Tensor = self.clip.visual_projection(pooled)
        unit: Tensor = embedding / embedding.norm(dim=-1, keepdim=True)
        return unit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/cpu_engines"))
    parser.add_argument("--rounds", type=int, default=24, help="at batch 1; fewer at larger ones")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    threads = processors()
    torch.set_num_threads(threads)

    report: Row = {
        "environment": {**environment(), "openvino": release(openvino_library()), "load": os.getloadavg()},
        "rows": [],
    }

    def keep(rows: list[Row]) -> None:
        # After each part: whoever loses patience keeps what was measured.
        report["rows"] += rows
        (options.output / "cpu_engines.json").write_text(json.dumps(report, indent=1) + "\n")
        (options.output / "cpu_engines.md").write_text(_markdown(report))

    with tempfile.TemporaryDirectory() as folder:
        checkpoint = init_checkpoint("vit-b-32")
        graphs = _graphs(checkpoint, Path(folder))
        clip = _baseline(checkpoint, Path(folder) / "straight.onnx")
        golden = golden_from_checkpoint(checkpoint)
        ours: dict[str, Engine] = {
            "OpenVINO": OpenVINOEngine(graphs, threads=threads),
            "ONNX Runtime": OnnxRuntimeEngine(graphs, threads=threads),
        }
        straight = OpenVINOEngine({GRAPHS[0]: Path(folder) / "straight.onnx"}, threads=threads)
        for batch, rounds in ((1, options.rounds), (8, max(5, options.rounds // 3)), (32, max(4, options.rounds // 6))):
            keep(_image_rows(ours, straight, clip, golden, batch, rounds))
        for batch in (1, 8):
            keep(_fusion_rows(ours, checkpoint, golden, batch, max(6, options.rounds // 2)))
    print(_markdown(report))


def _graphs(checkpoint: Checkpoint, folder: Path) -> dict[str, Path]:
    paths = {}
    for spec in graph_specs(checkpoint.model):
        paths[spec.name] = folder / f"{spec.name}.onnx"
        typed_onnx_from_module(spec, opset=20).save(paths[spec.name])
    return paths


def _baseline(checkpoint: Checkpoint, path: Path) -> _PlainTower:
    clip = plain_clip(checkpoint)
    tower = _PlainTower(clip).eval()
    size = checkpoint.config.vision_config.image_size
    # With transformers' own default attention, which OpenVINO fuses.
    program = torch.onnx.export(
        tower,
        (torch.zeros(2, 3, size, size),),
        dynamo=True,
        opset_version=20,
        dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=65535)},),
        input_names=["pixel_values"],
        output_names=["image_embedding"],
        verify=False,
    )
    assert program is not None
    program.save(path)
    clip.set_attn_implementation("eager")
    return tower


def _image_rows(
    ours: dict[str, Engine], straight: Engine, clip: _PlainTower, golden: Golden, batch: int, rounds: int
) -> list[Row]:
    pixels = np.resize(golden.pixel_values, (batch, *golden.pixel_values.shape[1:]))
    inputs = {"pixel_values": pixels}
    work: dict[str, Callable[[], object]] = {
        STRAIGHT: partial(straight.run, GRAPHS[0], inputs),
        **{name: partial(engine.run, GRAPHS[0], inputs) for name, engine in ours.items()},
        TORCH: partial(torch.inference_mode()(clip), torch.from_numpy(pixels)),
    }
    timings = interleaved(work, rounds=rounds, warmup=1)
    rows = []
    for name in work:
        row = _row(f"image encoder, batch {batch}", name, timings, STRAIGHT)
        if name in ours:
            answer = ours[name].run(GRAPHS[0], {"pixel_values": golden.pixel_values})
            row |= _quality(answer, golden)
        rows.append(row)
    return rows


def _fusion_rows(ours: dict[str, Engine], checkpoint: Checkpoint, golden: Golden, batch: int, rounds: int) -> list[Row]:
    prompts = checkpoint.tokenizer.encode(checkpoint.findings.prompts)
    count, length = prompts.input_ids.shape
    pairs: dict[str, NDArray[Any]] = {
        "region_tokens": golden.region_tokens[:batch],
        "text_tokens": np.ascontiguousarray(golden.text_tokens[:count, :length]),
        "text_mask": prompts.mask,
    }
    image: dict[str, NDArray[Any]] = {"pixel_values": golden.pixel_values[:batch]}
    rows = []
    for name, engine in ours.items():
        work = {
            "image": partial(engine.run, "image_encoder", image),
            "fusion": partial(engine.run, "fusion_head", pairs),
        }
        timings = interleaved(work, rounds=rounds, warmup=1)
        share = sorted(1 / ratio for ratio in timings.ratio("image", "fusion"))
        rows.append(
            {
                "what": f"fusion head, {count} prompts, batch {batch}",
                "with": name,
                "share_of_image_encoder": [round(share[place], 4) for place in (1, 0, 2)],
                "ms": round(timings.median_ms("fusion"), 2),
                "seconds": timings.to_dict(),
            }
        )
    return rows


def _quality(answer: dict[str, NDArray[Any]], golden: Golden) -> Row:
    _, share = _measure.region_gap(answer["region_index"], golden.rollout)
    return {
        "cosine": _measure.cosine(answer["image_embedding"], golden.image_embedding),
        "centred_cosine": _measure.centred_cosine(answer["image_embedding"], golden.image_embedding),
        "regions_that_are_pytorchs": share,
    }


def _row(what: str, name: str, timings: Timings, baseline: str) -> Row:
    return {
        "what": what,
        "with": name,
        "ms": round(timings.median_ms(name), 2),
        "ratio": [round(value, 3) for value in timings.ratio(baseline, name)],
        "seconds": timings.to_dict()[name],
    }


def _markdown(report: Row) -> str:
    env = report["environment"]
    machine = (
        f"{env['processor']}, {env['threads']} threads, fp32 GEMM peak {env['fp32_gemm_gflops']} GFLOP/s, load "
        f"{env['load'][0]:.1f}; OpenVINO {env['openvino']}, ONNX Runtime {env['onnxruntime']}, torch {env['torch']}. "
        "All in float32. Ratios: median of rounds (quartiles)."
    )
    lines = [
        machine,
        "",
        "| what | with | ms | times as fast as OpenVINO straight | cosine to torch (centred) | regions as torch's |",
        "|---|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        if "ratio" in row:
            middle, low, high = row["ratio"]
            cosine = f"{row['cosine']:.6f} ({row['centred_cosine']:.6f})" if "cosine" in row else ""
            regions = f"{row['regions_that_are_pytorchs']:.1%}" if "cosine" in row else "has none"
            lines.append(
                f"| {row['what']} | {row['with']} | {row['ms']:.1f} | {middle:.3f} ({low:.3f}–{high:.3f}) "
                f"| {cosine} | {regions} |"
            )
    lines += ["", "| what | with | ms | share of the image encoder (quartiles) |", "|---|---|---|---|"]
    for row in report["rows"]:
        if "share_of_image_encoder" in row:
            middle, low, high = row["share_of_image_encoder"]
            lines.append(f"| {row['what']} | {row['with']} | {row['ms']:.1f} | {middle:.1%} ({low:.1%}–{high:.1%}) |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
