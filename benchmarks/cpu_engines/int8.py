"""int8 against float32 on the CPU: speed of the graphs in turns, where their time goes, and what int8 loses.

::

    python -m benchmarks.cpu_engines.int8 default vit-b-32 -o benchmarks/results/cpu_engines/int8.json
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from msgspec import to_builtins

from benchmarks.measure import alone, environment, interleaved
from lrclr.checkpoints import init_checkpoint, load_checkpoint
from lrclr.engines import OnnxRuntimeEngine, OpenVINOEngine, TorchEngine
from lrclr.verification import Tolerances, centred_cosine, region_gap
from lrclr_export.onnx.graphs import graph_specs
from lrclr_export.onnx.onnx_graph import typed_onnx_from_module
from lrclr_export.quantize import carried_calibration, quantized
from lrclr_export.repository.golden import golden_from_checkpoint

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lrclr.engines import ProfiledEngine


# Random weights lose far more than trained ones. These limits keep no layer in float32, so the speed is that of int8.
_NO_LIMITS = {"centred_cosine": 0.0, "region_gap": 10.0, "score_error": 10.0}
_PROFILED_RUNS = 8


def measure(name: str, folder: Path, *, batches: tuple[int, ...], rounds: int) -> dict[str, Any]:
    """Timings in seconds, ratios and losses of one checkpoint.

    Args:
        name: ``"default"``, or an architecture for random weights.
        folder: for the graphs.
        batches: numbers of images.
        rounds: rounds of turns.
    """
    checkpoint = load_checkpoint(name) if name == "default" else init_checkpoint(name)
    tolerances = Tolerances.for_precision("int8")
    if name != "default":
        tolerances = tolerances.overridden(_NO_LIMITS)
    began = time.perf_counter()
    made = quantized(checkpoint, carried_calibration(checkpoint.preprocess), tolerances)
    seconds = time.perf_counter() - began
    paths: dict[str, dict[str, Path]] = {"fp32": {}, "int8": {}}
    for precision, model in (("fp32", checkpoint.model), ("int8", made.model)):
        for spec in graph_specs(model):
            paths[precision][spec.name] = folder / f"{name}-{precision}-{spec.name}.onnx"
            typed_onnx_from_module(spec, opset=20).save(paths[precision][spec.name])
    profiled: dict[str, ProfiledEngine] = {}
    engines: dict[str, Any] = {"torch fp32": TorchEngine(checkpoint.model).run}
    for precision, graphs in paths.items():
        for kind, opened in (
            ("onnxruntime", OnnxRuntimeEngine(graphs, threads=torch.get_num_threads())),
            ("openvino", OpenVINOEngine(graphs, threads=torch.get_num_threads())),
        ):
            profiled[f"{kind} {precision}"], engines[f"{kind} {precision}"] = opened, opened.run
    golden = golden_from_checkpoint(checkpoint)
    result: dict[str, Any] = {
        "quantization": made.record,
        "quantization_seconds": round(seconds, 1),
        "losses": _losses(engines, golden),
        "timings": {},
        "operators": {},
    }
    pixels = np.tile(golden["pixel_values"], (4, 1, 1, 1))
    length = int(golden["text_mask"].sum(1)[: len(checkpoint.findings.prompts)].max())
    prompts = golden["input_ids"][: len(checkpoint.findings.prompts), :length]
    work: dict[str, tuple[str, dict[str, NDArray[Any]]]] = {
        f"{size} images": ("image_encoder", {"pixel_values": pixels[:size]}) for size in batches
    }
    work[f"{len(prompts)} prompts of up to {length} tokens"] = ("text_encoder", {"input_ids": prompts})
    for size in batches:
        rows = np.resize(np.arange(len(golden["region_tokens"])), size)
        pairs: dict[str, NDArray[Any]] = {
            "region_tokens": np.ascontiguousarray(golden["region_tokens"][rows]),
            "text_tokens": np.ascontiguousarray(golden["text_tokens"][: len(prompts), :length]),
            "text_mask": np.ascontiguousarray(golden["text_mask"][: len(prompts), :length]),
        }
        work[f"{size} images with {len(prompts)} prompts in the fusion head"] = ("fusion_head", pairs)
    for title, (graph, inputs) in work.items():
        result["operators"][title] = {
            engine: to_builtins(one.operators(graph, inputs, _PROFILED_RUNS)) for engine, one in profiled.items()
        }
        timings = interleaved({engine: partial(run, graph, inputs) for engine, run in engines.items()}, rounds=rounds)
        result["timings"][title] = {
            "seconds": timings.to_dict(),
            "ratios": {
                base: {engine: [round(x, 3) for x in timings.ratio(base, engine)] for engine in engines}
                for base in ("torch fp32", "onnxruntime fp32")
            },
        }
    return result


def _losses(engines: dict[str, Any], golden: Any) -> dict[str, dict[str, float]]:
    losses = {}
    for name, run in engines.items():
        image = run("image_encoder", {"pixel_values": golden["pixel_values"]})
        text = run("text_encoder", {"input_ids": golden["input_ids"]})
        gap, same = region_gap(image["region_index"], golden["rollout"])
        losses[name] = {
            "image_centred_cosine": centred_cosine(image["image_embedding"], golden["image_embedding"]),
            "text_centred_cosine": centred_cosine(text["text_embedding"], golden["text_embedding"]),
            "region_gap": gap,
            "regions_of_pytorch": same,
        }
    return losses


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.cpu_engines.int8", description="int8 against float32.")
    parser.add_argument("checkpoints", nargs="+", help="default, or an architecture for random weights")
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8], help="numbers of images")
    parser.add_argument("--rounds", type=int, default=15, help="rounds of turns")
    options = parser.parse_args()
    report: dict[str, Any] = {"environment": environment(), "checkpoints": {}}
    with alone(), tempfile.TemporaryDirectory() as folder:
        for name in options.checkpoints:
            measured = measure(name, Path(folder), batches=tuple(options.batches), rounds=options.rounds)
            report["checkpoints"][name] = measured
            for title, timing in measured["timings"].items():
                sys.stdout.write(f"{name}, {title}: {json.dumps(timing['ratios'])}\n")
            sys.stdout.write(f"{name}: {json.dumps(measured['losses'])}\n")
            options.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
