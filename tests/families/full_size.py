"""Networks of full size with random weights, exported once: memory, time and size in docs/families/index.md.

``python -m tests.families.full_size NAME [-o FOLDER] [--few-images] [EXPORT OPTIONS]`` writes a checkpoint as its
library does, runs ``lrclr export`` on it in a process of its own, prints what the system says about that process, and
removes both.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from tests.families import networks

if TYPE_CHECKING:
    from collections.abc import Callable


def medsiglip(folder: Path) -> None:
    """SigLIP so400m at 448 pixels, in transformers' layout, as google/medsiglip-448 is published."""
    from transformers import SiglipConfig, SiglipModel

    tower = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16}
    vision = {**tower, "image_size": 448, "patch_size": 14}
    text = {**tower, "vocab_size": 32000, "projection_size": 1152}
    model = networks.perturbed(SiglipModel(SiglipConfig(vision_config=vision, text_config=text)))
    model.logit_scale.data.fill_(2.3)
    model.logit_bias.data.fill_(-3.1)
    networks.saved(model, folder)
    networks.write_pieces(folder)
    networks.write_processor(folder, "SiglipImageProcessor", 448)


def vit_h_14(folder: Path) -> None:
    """ViT-H/14 in open_clip's layout, as LAION's checkpoints are published."""
    networks.stub_torchvision()
    import open_clip

    config = open_clip.get_model_config("ViT-H-14")
    model = networks.perturbed(open_clip.model.CLIP(**config))
    networks.open_clip_folder(folder, model, config, {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28]})


def biomedclip(folder: Path) -> None:
    """BiomedCLIP in open_clip's layout: timm's ViT-B/16 and PubMedBERT."""
    networks.stub_torchvision()
    from open_clip.hf_model import HFTextEncoder
    from open_clip.timm_model import TimmModel
    from transformers import BertConfig

    model = torch.nn.Module()
    model.visual = TimmModel("vit_base_patch16_224", 512, image_size=224, pool="", proj="linear")
    bert = BertConfig(vocab_size=30522, max_position_embeddings=512)
    pooler = "cls_last_hidden_state_pooler"
    model.text = HFTextEncoder("x", 512, config=bert, pooler_type=pooler, proj_type="mlp", pretrained=False)
    model.logit_scale = torch.nn.Parameter(torch.tensor(4.4))
    config = json.loads(json.dumps(networks.BIOMEDCLIP))
    config["embed_dim"], config["vision_cfg"]["image_size"] = 512, 224
    config["text_cfg"]["context_length"] = 256
    recipe = {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28]}
    networks.open_clip_folder(folder, networks.perturbed(model), config, recipe)
    networks.write_vocabulary(folder)


NETWORKS: Final[dict[str, Callable[[Path], None]]] = {
    "medsiglip": medsiglip,
    "vit-h-14": vit_h_14,
    "biomedclip": biomedclip,
}


# Less to compute. The 128 images of the task gate are left out, which does not judge networks with random weights.
# Activations are measured on 4 images and 32 texts, and the gates run 4 images instead of 8, and 32 prompts at most
# instead of 256.
FEW_IMAGES: Final = """
from lrclr.samples import sample_paths
from lrclr.text import TokenBatch
from lrclr.verification import _inputs
from lrclr_export import profiles
from lrclr_export.onnx import activations
from lrclr_export.repository import golden, pipeline
all_tokens = pipeline.calibration_tokens
def calibration_tokens(checkpoint):
    tokens = all_tokens(checkpoint)
    return TokenBatch(tokens.input_ids[:32], tokens.mask[:32])
pipeline.calibration_tokens = calibration_tokens
activations._IMAGES = activations._BATCH = 4
golden.task_auroc = lambda _classifier: 0.5
_inputs.sample_paths, profiles.MAX_PROMPTS = lambda: sample_paths()[:2], 32
"""
COMMAND: Final = "import sys; from lrclr.cli import main; sys.exit(main())"


def run(command: list[str]) -> dict[str, Any]:
    """Run a command; its exit code, processor time, wall time and peak memory."""
    start = time.monotonic()
    child = subprocess.Popen(command)
    _, status, usage = os.wait4(child.pid, 0)
    return {
        "exit code": os.waitstatus_to_exitcode(status),
        "processor seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "wall seconds": round(time.monotonic() - start, 1),
        "peak GiB": round(usage.ru_maxrss / 2**20, 2),
    }


def size_of(folder: Path) -> float:
    """GB of the files in a folder."""
    return round(sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e9, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=NETWORKS)
    parser.add_argument("-o", "--output", type=Path, help="keep the checkpoint and the bundle in this folder")
    parser.add_argument("--few-images", action="store_true", help="run fewer images and prompts than `lrclr export`")
    arguments, options = parser.parse_known_args()
    folder = arguments.output or Path(tempfile.mkdtemp(prefix="lrclr-full-size-"))
    checkpoint, bundle = folder / "checkpoint", folder / "bundle"
    try:
        if not checkpoint.exists():
            # A process of its own, so that its memory is not counted.
            script = f"from tests.families.full_size import *; NETWORKS[{arguments.name!r}](Path({str(checkpoint)!r}))"
            subprocess.run([sys.executable, "-c", script], check=True)
        program = (FEW_IMAGES if arguments.few_images else "") + COMMAND
        found = run([sys.executable, "-c", program, "export", str(checkpoint), "-o", str(bundle), *options])
        sizes = {"checkpoint GB": size_of(checkpoint), "bundle GB": size_of(bundle) if bundle.exists() else None}
        settings = {"network": arguments.name, "few images": arguments.few_images, "options": options}
        print(json.dumps({**settings, **found, **sizes}))
    finally:
        if arguments.output is None:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
