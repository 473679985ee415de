"""What TensorRT-RTX's builder makes of real sizes, without a GPU: ``python -m benchmarks.gpu.plans``.

For each tower it prints launches, layers with fused attention and memory of activations, with regions selected from
attention maps and from queries and keys, in half precision and in FP8. Weights are random. L/14 @336 takes minutes and
up to 8 GiB.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.gpu.quarter_hour.common import NETWORKS
from lrclr.checkpoints import ARCHITECTURES, init_checkpoint
from lrclr.verification import Tolerances
from lrclr_export.onnx.graphs import graph_specs
from lrclr_export.onnx.onnx_graph import typed_onnx_from_module
from lrclr_export.onnx.precision import half_precision
from lrclr_export.plans import BuildOptions, plan_from_onnx
from lrclr_export.quantize import Calibration, carried_calibration, quantized

if TYPE_CHECKING:
    from lrclr.checkpoints import Checkpoint

BATCHES = (1, 32)
PROMPTS, TOKENS = 28, 16
RESULTS = Path(__file__).parent.parent / "results" / "gpu" / "plans.json"


def main() -> None:
    """Build plans and add them to the file of results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="*", default=[one.name for one in NETWORKS], help="such as 'ViT-B/32 @224'")
    parser.add_argument("--compute-capability", default="8.9")
    parser.add_argument("--fp8", action="store_true", help="FP8 instead of half precision")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    target = BuildOptions("tensorrt-rtx", (options.compute_capability,))
    for network in (one for one in NETWORKS if one.name in options.networks):
        vision = {**ARCHITECTURES[network.architecture]["vision_config"], "image_size": network.image_size}
        checkpoint = init_checkpoint(network.architecture, vision_config=vision)
        precision = "fp8" if options.fp8 else "fp16"
        for graph, variant, entry in _plans(checkpoint, precision, target):
            rows = json.loads(options.output.read_text()) if options.output.is_file() else {}
            key = f"{network.name}, {graph}, {precision}, {variant}, compute capability {options.compute_capability}"
            rows[key] = entry
            options.output.write_text(json.dumps(dict(sorted(rows.items())), indent=1) + "\n")
            print(key, entry, f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB", flush=True)


def _plans(checkpoint: Checkpoint, precision: str, target: BuildOptions) -> Any:
    model = checkpoint.model
    if precision == "fp8":
        few = carried_calibration(checkpoint.preprocess)
        few = Calibration(few.kind, few.sha256, few.pixel_values[:4])
        limits = Tolerances.for_precision("fp8")
        model = quantized(checkpoint, few, limits, precision="fp8", search_layers=False).model
    half = half_precision(model)
    image, text, _ = graph_specs(half)
    with tempfile.TemporaryDirectory() as folder:
        for spec in (image, text):
            path = Path(folder) / spec.name / "model.onnx"
            path.parent.mkdir()
            typed_onnx_from_module(spec, opset=20).save(path)
            (name,), rest = spec.inputs, list(next(iter(spec.inputs.values())).shape[1:])
            sizes = [[batch, *rest] for batch in BATCHES] if spec is image else [[PROMPTS, TOKENS]]
            profiles = [{name: {"min": size, "opt": size, "max": size}} for size in sizes]
            variants = {"queries and keys": True}
            if spec is image and precision == "fp16":
                variants["maps"] = False
            for variant, half_precision_ in variants.items():
                plan = plan_from_onnx(
                    path,
                    target,
                    name=spec.name,
                    profiles=profiles,
                    selects_regions=spec is image,
                    half_precision=half_precision_,
                )
                built = plan.record.to_dict()["profiles"]
                shown = [
                    {
                        "size": size[0],
                        "launches": profile["launches"],
                        "fused_attention": profile["fused_attention"],
                        "activations_mib": round(profile["activation_bytes"] / 2**20, 1),
                        "products": profile["products"],
                    }
                    for size, profile in zip(sizes, built, strict=True)
                ]
                yield (
                    spec.name,
                    variant if spec is image else "text",
                    {"attentions": plan.attention_layers, "sizes": shown},
                )


if __name__ == "__main__":
    main()
