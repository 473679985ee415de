"""optimum-onnx: its exporter and `ORTModelForZeroShotImageClassification`, one graph with both inputs."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

from benchmarks.peers.works import BATCHES, Opening, Work, Works

if TYPE_CHECKING:
    from pathlib import Path


def prepare(folder: Path) -> None:
    """Run ``optimum-cli export onnx``, which only warns about deviations above its tolerance."""
    command = ["export", "onnx", "--model", str(folder / "hf"), "--task", "zero-shot-image-classification"]
    program = "from optimum.commands.optimum_cli import main; main()"
    subprocess.run([sys.executable, "-c", program, *command, str(folder / "optimum")], check=True)


def open_works(opening: Opening) -> Works:
    """No options. Work on images has the shortest prompt too, work on texts the first image: the graph needs both."""
    import numpy as np
    from optimum.onnxruntime import ORTModelForZeroShotImageClassification

    inputs = opening.inputs
    model = ORTModelForZeroShotImageClassification.from_pretrained(opening.folder / "optimum")
    pixels = {batch: inputs.images(batch) for batch in BATCHES}
    # Begin-of-text and end-of-text.
    shortest = np.array([[inputs.ids[0, 0], _end(inputs.ids)]], np.int64)

    def ask(ids: Any, batch: int) -> Any:
        return model(input_ids=ids, pixel_values=pixels[batch], attention_mask=np.ones_like(ids))

    return {
        "image": Work(lambda batch: ask(shortest, batch).image_embeds),
        "text77": Work(lambda _: ask(inputs.padded_ids, 1).text_embeds),
        "text": Work(lambda _: ask(inputs.ids, 1).text_embeds),
        "answer-new": Work(
            lambda batch: ask(inputs.ids, batch).logits_per_image,
            lambda logits: inputs.pair_probabilities(np.asarray(logits)),
            (1,),
        ),
    }


def _end(ids: Any) -> int:
    row = ids[0]
    return int(row[row != 0][-1])
