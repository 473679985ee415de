"""modern-onnx-clip: ONNX Runtime with default settings on two graphs in a folder of its layout."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

from benchmarks.peers.works import BATCHES, Inputs, Opening, Work, Works

if TYPE_CHECKING:
    from pathlib import Path


def prepare(folder: Path) -> None:
    """Copy the plain graphs into its layout, since its own exporter reads open_clip's models only."""
    target = folder / "onnx-clip"
    target.mkdir(exist_ok=True)
    for source, name in (("image", "visual"), ("text", "textual")):
        shutil.copyfile(folder / "onnx" / f"{source}.onnx", target / f"{name}.onnx")
    shutil.copyfile(folder / "hf" / "tokenizer.json", target / "tokenizer.json")
    inputs = Inputs.load(folder)
    sizes = {"image_size": inputs.pictures.shape[1], "context_length": inputs.padded_ids.shape[1]}
    (target / "config.json").write_text(json.dumps(sizes))


def open_works(opening: Opening) -> Works:
    """No options."""
    from onnx_clip import OnnxClip

    inputs = opening.inputs
    model = OnnxClip(str(opening.folder / "onnx-clip"), silent=True)
    pixels = {batch: inputs.images(batch) for batch in BATCHES}
    prompts = list(inputs.prompts)
    return {
        "image": Work(lambda batch: model.get_image_embedding(pixels[batch])),
        "text77": Work(lambda _: model.get_text_embedding(prompts)),
    }
