"""infinity-emb: transformers' CLIP in an engine that batches requests."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from benchmarks.peers.works import Opening, Work, Works, picture_batches


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
    batches = picture_batches([Image.fromarray(picture) for picture in inputs.pictures])
    name = arguments.served_model_name

    def vectors(future: Any) -> Any:
        return np.stack(future.result()[0])

    return {
        "image": Work(lambda batch: vectors(engine.image_embed(model=name, images=batches[batch]))),
        "text": Work(lambda _: vectors(engine.embed(model=name, sentences=list(inputs.prompts)))),
    }
