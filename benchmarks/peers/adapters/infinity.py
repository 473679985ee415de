"""infinity-emb: transformers' CLIP behind an engine that gathers requests into batches."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from benchmarks.peers.works import Opening, Work, Works


def open_works(opening: Opening) -> Works:
    """No options."""
    os.environ["INFINITY_ANONYMOUS_USAGE_STATS"] = "0"
    from infinity_emb import EngineArgs, SyncEngineArray
    from PIL import Image

    inputs, folder = opening.inputs, str(opening.folder / "hf")
    arguments = EngineArgs(
        model_name_or_path=folder, engine="torch", device="cpu", bettertransformer=False, model_warmup=False
    )
    engine = SyncEngineArray.from_args([arguments])
    pictures = [Image.fromarray(picture) for picture in inputs.pictures]
    batches = {batch: [pictures[number % len(pictures)] for number in range(batch)] for batch in (1, 8, 32)}
    name = arguments.served_model_name

    def vectors(future: Any) -> Any:
        return np.stack(future.result()[0])

    return {
        "image": Work(lambda batch: vectors(engine.image_embed(model=name, images=batches[batch]))),
        "text": Work(lambda _: vectors(engine.embed(model=name, sentences=list(inputs.prompts)))),
    }
