"""lrclr: torch, or an engine with a bundle of one precision; regions included."""

from __future__ import annotations

from typing import Any

from benchmarks.peers.works import BATCHES, Opening, Work, Works


def open_works(opening: Opening) -> Works:
    """Options: ``engine``: ``"torch"`` or one of `lrclr.engines.ENGINES`; ``precision``; ``threads``."""
    from lrclr import ZeroShotClassifier

    inputs, options = opening.inputs, opening.options
    if options["engine"] == "torch":
        classifier = ZeroShotClassifier.from_checkpoint(opening.folder / "lrclr")
    else:
        bundle = opening.folder / "bundles" / options["precision"]
        classifier = ZeroShotClassifier.from_bundle(bundle, engine=options["engine"], threads=int(options["threads"]))
    engine = classifier.engine
    pixels = {batch: inputs.images(batch) for batch in BATCHES}

    def image(output: str, batch: int) -> Any:
        return engine.run("image_encoder", {"pixel_values": pixels[batch]})[output]

    def text(ids: Any) -> Any:
        return engine.run("text_encoder", {"input_ids": ids})["text_embedding"]

    def answer(batch: int) -> Any:
        # Peers have no local score, so alpha is 0. The fusion head runs all the same.
        return classifier.answer_pixels(pixels[batch], alpha=0.0).probability

    def answer_new(batch: int) -> Any:
        classifier.prompt_cache.clear()
        return answer(batch)

    return {
        "image": Work(lambda batch: image("image_embedding", batch)),
        "text77": Work(lambda _: text(inputs.padded_ids)),
        "text": Work(lambda _: text(inputs.ids)),
        "answer": Work(answer, batches=(1, 8)),
        "answer-new": Work(answer_new, batches=(1, 8)),
        "regions": Work(lambda batch: image("region_index", batch), batches=(8,)),
    }
