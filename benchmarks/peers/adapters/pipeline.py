"""transformers' zero-shot-image-classification pipeline: one picture a call, and its prompts encoded in each call."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.peers.works import Array, Opening, Work, Works


def open_works(opening: Opening) -> Works:
    """No options."""
    from PIL import Image
    from transformers import pipeline

    inputs = opening.inputs
    ask = pipeline("zero-shot-image-classification", model=str(opening.folder / "hf"), device="cpu")
    picture = Image.fromarray(inputs.pictures[0])
    prompts = list(inputs.prompts)

    def answer(_: int) -> Any:
        return ask(picture, candidate_labels=prompts, hypothesis_template="{}")

    def probabilities(result: list[dict[str, Any]]) -> Array:
        # Its softmax is over all prompts. The ratio of two prompts is the same as in a softmax over the two.
        share = {one["label"]: one["score"] for one in result}
        return inputs.pair_probabilities(np.log(np.array([[share[prompt] for prompt in prompts]], np.float64)))

    return {"answer-new": Work(answer, probabilities, (1,))}
