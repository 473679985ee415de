"""Export a CheXzero checkpoint to a bundle, and show what the gates measured.

    python -m examples.export_chexzero [CHECKPOINT.pt] [-o triton_repo] [--precision fp16]

Without a checkpoint it writes a file of CheXzero's layout with random weights and exports that: a ViT-B/32, or, with
--small, a network that is exported within seconds. Research use only. Not a medical device.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

from lrclr import load_checkpoint
from lrclr_export import ExportOptions, export_bundle

# Widths, numbers of layers, patch size, patches in a row, size of the embedding: of ViT-B/32, and of a small network.
VIT_B_32 = (768, 12, 512, 12, 32, 7, 512)
SMALL = (128, 2, 64, 2, 16, 3, 32)
HEAD = 64  # Every attention head of OpenAI's networks has this width.


def random_chexzero(path: Path, sizes: tuple[int, ...] = VIT_B_32) -> None:
    """Write a state dict under CheXzero's names, which are OpenAI's, with random weights in half precision."""
    width, layers, text_width, text_layers, patch, grid, dimension = sizes
    shapes = {
        "positional_embedding": (77, text_width),
        "text_projection": (text_width, dimension),
        "token_embedding.weight": (49408, text_width),
        "visual.class_embedding": (width,),
        "visual.positional_embedding": (grid * grid + 1, width),
        "visual.proj": (width, dimension),
        "visual.conv1.weight": (width, 3, patch, patch),
    }
    for name, size in (("ln_final", text_width), ("visual.ln_pre", width), ("visual.ln_post", width)):
        shapes |= {f"{name}.weight": (size,), f"{name}.bias": (size,)}
    for tower, size, count in (("visual.transformer", width, layers), ("transformer", text_width, text_layers)):
        for layer in range(count):
            block = f"{tower}.resblocks.{layer}"
            shapes |= {f"{block}.attn.in_proj_weight": (3 * size, size), f"{block}.attn.in_proj_bias": (3 * size,)}
            for name, (out, into) in {
                "attn.out_proj": (size, size),
                "mlp.c_fc": (4 * size, size),
                "mlp.c_proj": (size, 4 * size),
            }.items():
                shapes |= {f"{block}.{name}.weight": (out, into), f"{block}.{name}.bias": (out,)}
            for name in ("ln_1", "ln_2"):
                shapes |= {f"{block}.{name}.weight": (size,), f"{block}.{name}.bias": (size,)}
    generator = torch.Generator().manual_seed(0)
    state = {name: torch.randn(shape, generator=generator) * shape[-1] ** -0.5 for name, shape in shapes.items()}
    norms = [name for name in state if ".ln_" in f".{name}"]
    state |= {name: torch.full(shapes[name], float(name.endswith("weight"))) for name in norms}
    state["logit_scale"] = torch.tensor(4.6052)
    torch.save({name: tensor.half() for name, tensor in state.items()}, path)


def main() -> None:
    """Export a checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, nargs="?")
    parser.add_argument("-o", "--output", type=Path, default=Path("triton_repo"))
    parser.add_argument("--precision", choices=["fp16", "fp32", "int8"], default="fp16")
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path, heads = options.checkpoint, None
        if path is None:
            path = Path(folder) / "random.pt"
            sizes = SMALL if options.small else VIT_B_32
            heads = (sizes[0] // HEAD, sizes[2] // HEAD)
            random_chexzero(path, sizes)
        checkpoint = load_checkpoint(path, heads=heads)
        bundle = export_bundle(checkpoint, options.output, ExportOptions(options.precision))
    gates = bundle.manifest.gates
    print(f"{options.output}: {options.precision}, {len(gates)} gates hold, manifest {bundle.sha256}")
    for gate in gates:
        if gate["gate"] in ("centred cosine", "max error", "region gap"):
            print(f"{gate['gate']} of {gate['subject']}: {gate['value']:g}, limit {gate['tolerance']:g}")


if __name__ == "__main__":
    main()
