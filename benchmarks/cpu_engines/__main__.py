"""lrclr's engines against OpenVINO straight, ViT-B/32: ``python -m benchmarks.cpu_engines``.

In float32, and where the processor has bfloat16, with OpenVINO also in bfloat16.

"OpenVINO straight" is transformers' CLIP image tower, without regions, exported by torch.onnx and compiled by OpenVINO.
All candidates take turns in one run, and ratios are taken round by round. Weights are random: they do not change the
speed, and the quality columns show only that the graphs compute the same function as the network.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from benchmarks.measure import alone, environment, interleaved, page
from benchmarks.plain_clip import plain_clip
from benchmarks.rows import Row, fusion_rows, image_quality, pixels_of, timing_row
from lrclr._processors import processors
from lrclr.bundle import GRAPHS
from lrclr.checkpoints import Checkpoint, init_checkpoint
from lrclr.engines import OnnxRuntimeEngine, OpenVINOEngine
from lrclr.engines._openvino_library import openvino_library, release
from lrclr_export.onnx.graphs import graph_specs
from lrclr_export.onnx.onnx_graph import typed_onnx_from_module
from lrclr_export.repository.golden import golden_from_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable

    from lrclr.engines import Engine

STRAIGHT, TORCH = "OpenVINO straight, no regions", "torch eager, no regions"
IN_HALF = ", in bfloat16"


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
    """Measure, and write JSON and a page after each part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/cpu_engines"), help="folder")
    parser.add_argument("--rounds", type=int, default=24, help="rounds at batch 1; larger batches have fewer")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    threads = processors()
    torch.set_num_threads(threads)
    with alone(), tempfile.TemporaryDirectory() as folder:
        report: Row = {
            "command": f"python -m benchmarks.cpu_engines --rounds {options.rounds}",
            "environment": {**environment(), "openvino": release(openvino_library()), "load": os.getloadavg()},
            "ratios": [],
            "shares": [],
        }

        def keep(part: str, rows: list[Row]) -> None:
            # An interrupted run keeps its finished parts.
            report[part] += rows
            (options.output / "cpu_engines.json").write_text(json.dumps(report, indent=1) + "\n")
            (options.output / "cpu_engines.md").write_text(page("cpu_engines.md", **report))

        checkpoint = init_checkpoint("vit-b-32")
        graphs = _graphs(checkpoint, Path(folder))
        tower = _plain_tower(checkpoint, Path(folder) / "straight.onnx")
        golden = golden_from_checkpoint(checkpoint)
        ours: dict[str, Engine] = {
            "OpenVINO": OpenVINOEngine(graphs, threads=threads),
            "ONNX Runtime": OnnxRuntimeEngine(graphs, threads=threads),
        }
        plain = {GRAPHS[0]: Path(folder) / "straight.onnx"}
        straight = {STRAIGHT: OpenVINOEngine(plain, threads=threads)}
        if "bfloat16" in straight[STRAIGHT].product_types:
            straight[STRAIGHT + IN_HALF] = OpenVINOEngine(plain, threads=threads, half=GRAPHS)
            ours["OpenVINO" + IN_HALF] = OpenVINOEngine(graphs, threads=threads, half=GRAPHS)
        quality = {name: image_quality(engine, golden) for name, engine in ours.items()}
        for batch, rounds in ((1, options.rounds), (8, max(5, options.rounds // 3)), (32, max(4, options.rounds // 6))):
            pixels = pixels_of(golden, batch)
            inputs = {"pixel_values": pixels}
            work: dict[str, Callable[[], object]] = {
                **{name: partial(engine.run, GRAPHS[0], inputs) for name, engine in {**straight, **ours}.items()},
                TORCH: partial(torch.inference_mode()(tower), torch.from_numpy(pixels)),
            }
            timings = interleaved(work, rounds=rounds, warmup=1)
            what = f"image encoder, batch {batch}"
            rows = []
            for one in work:
                row = timing_row(what, one, timings, STRAIGHT + (IN_HALF if one.endswith(IN_HALF) else ""), one)
                of_torch = [round(value, 3) for value in timings.ratio(TORCH, one)]
                rows.append(row | quality.get(one, {}) | {"of_torch": of_torch})
            keep("ratios", rows)
        for batch in (1, 8):
            keep("shares", fusion_rows(ours, checkpoint, golden, batch, max(6, options.rounds // 2)))
    print(page("cpu_engines.md", **report))


def _graphs(checkpoint: Checkpoint, folder: Path) -> dict[str, Path]:
    paths = {}
    for spec in graph_specs(checkpoint.model):
        paths[spec.name] = folder / f"{spec.name}.onnx"
        typed_onnx_from_module(spec, opset=20).save(paths[spec.name])
    return paths


def _plain_tower(checkpoint: Checkpoint, path: Path) -> _PlainTower:
    """The image tower without regions, for torch eager; its graph is written to `path`."""
    clip = plain_clip(checkpoint)
    tower = _PlainTower(clip).eval()
    size = checkpoint.config.vision_config.image_size
    # The graph has transformers' default attention, which OpenVINO fuses.
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


if __name__ == "__main__":
    main()
