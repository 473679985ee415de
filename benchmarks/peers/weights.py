"""Writes one checkpoint in several formats, so that all candidates compute the same function on the same inputs."""

from __future__ import annotations

import json
import math
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.peers.catalogue import RANDOM
from benchmarks.peers.works import Inputs
from benchmarks.plain_clip import plain_clip, without_convolutions
from lrclr.checkpoints import Checkpoint, default_checkpoint, init_checkpoint, load_checkpoint
from lrclr.errors import LrclrError
from lrclr.preprocessing import from_canvas, to_canvas
from lrclr.text import ClipTokenizer
from lrclr.verification import gate_images
from lrclr_export import ExportOptions, export_bundle

_CLIP_SCALE = 2.6592  # CLIP's initial logit scale, as a logarithm


def checkpoint_named(name: str, architecture: str = "vit-b-32") -> Checkpoint:
    """`RANDOM`: random weights of that architecture. Otherwise the default checkpoint, changed by
    `without_convolutions` and `with_last_end`.

    The default checkpoint loses its calibration of single findings and its bias, since the other programs have one
    factor for all cosines.
    """
    if name == RANDOM:
        return init_checkpoint(architecture, preprocess="clip", score_scale=math.exp(_CLIP_SCALE))
    checkpoint = with_last_end(without_convolutions(load_checkpoint(default_checkpoint())))
    checkpoint.config.finding_calibration, checkpoint.config.score_bias = None, 0.0
    return checkpoint


def with_last_end(checkpoint: Checkpoint) -> Checkpoint:
    """Move the end-of-text token to the last place of the vocabulary. The function that is computed stays the same.

    transformers' CLIP treats an end-of-text token of number 2 as a legacy configuration, and then pools at the highest
    number: with this vocabulary, whose token has number 2, it would give a wrong text embedding. The function exchanges
    two rows of the embedding and the numbers of their tokens.
    """
    config = checkpoint.config.text_config
    end, last = int(config.eos_token_id), int(config.vocab_size) - 1
    with torch.no_grad():
        table = checkpoint.model.text_model.embeddings.token_embedding.weight
        table[[end, last]] = table[[last, end]]
    config.eos_token_id = checkpoint.model.text_model.eos_token_id = last
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tokenizer.json"
        checkpoint.tokenizer.save(file)
        content = json.loads(file.read_text(encoding="utf-8"))
        exchanged = {end: last, last: end}
        vocabulary = content["model"]["vocab"]
        content["model"]["vocab"] = {word: exchanged.get(number, number) for word, number in vocabulary.items()}
        for entry in content["added_tokens"]:
            entry["id"] = exchanged.get(entry["id"], entry["id"])
        for marker in content["post_processor"]["special_tokens"].values():
            marker["ids"] = [exchanged.get(number, number) for number in marker["ids"]]
        file.write_text(json.dumps(content), encoding="utf-8")
        tokenizer = ClipTokenizer.from_file(file, context_length=checkpoint.tokenizer.context_length)
    return replace(checkpoint, tokenizer=tokenizer)


# Embeddings of random weights nearly coincide, so int8 loses far more of them than of trained ones. With strict limits
# some layers would stay in float32, and the speed would be that of another graph. The table shows what was lost.
_RANDOM_INT8 = {
    "cosine": 0.9,
    "centred_cosine": 0.0,
    "max_error": 9.0,
    "region_gap": 9.0,
    "score_error": 9.0,
    "probability_error": 1.0,
    "spread": 0.0,
    "task_auroc": 1.0,
}


def write_weights(checkpoint: Checkpoint, folder: Path) -> None:
    """Write the inputs, transformers' folder and lrclr's."""
    folder.mkdir(parents=True, exist_ok=True)
    inputs = inputs_of(checkpoint)
    inputs.save(folder)
    write_clip(checkpoint, folder / "hf", inputs.scale)
    checkpoint.save(folder / "lrclr", overwrite=True)


def write_bundle(checkpoint: Checkpoint, folder: Path, precision: str) -> str:
    """Write lrclr's bundle in a precision.

    Returns:
        The reason why the export failed; "" if it did not.
    """
    random = not checkpoint.config.fusion_trained
    options = ExportOptions(precision, tolerances=_RANDOM_INT8 if random and precision == "int8" else {})
    try:
        export_bundle(checkpoint, folder / "bundles" / precision, options)
    except LrclrError as error:
        return str(error)
    return ""


def inputs_of(checkpoint: Checkpoint) -> Inputs:
    """The gates' radiographs and the default prompts, preprocessed and encoded for this checkpoint."""
    spec, tokenizer, findings = checkpoint.preprocess, checkpoint.tokenizer, checkpoint.findings
    canvases = [to_canvas(image, spec) for image in gate_images()]
    prompts = findings.prompts
    padded, trimmed = tokenizer.encode(prompts, length=tokenizer.context_length), tokenizer.encode(prompts)
    return Inputs(
        pictures=np.stack([canvas if canvas.ndim == 3 else np.repeat(canvas[..., None], 3, -1) for canvas in canvases]),
        pixel_values=np.stack([from_canvas(canvas, spec) for canvas in canvases]),
        padded_ids=padded.input_ids,
        ids=trimmed.input_ids,
        prompts=prompts,
        positive=tuple(tuple(index.tolist()) for index in findings.positive_index),
        negative=tuple(tuple(index.tolist()) for index in findings.negative_index),
        scale=float(checkpoint.config.score_scale),
    )


def write_clip(checkpoint: Checkpoint, folder: Path, scale: float) -> None:
    """Write transformers' CLIP folder with the files of its processors; `scale` becomes the logit scale."""
    clip = plain_clip(checkpoint)
    with torch.no_grad():
        clip.logit_scale.fill_(math.log(scale))
    clip.save_pretrained(folder)
    checkpoint.tokenizer.save(folder / "tokenizer.json")
    for name, content in (("preprocessor_config", _images(checkpoint)), ("tokenizer_config", _texts(checkpoint))):
        (folder / f"{name}.json").write_text(json.dumps(content, indent=1), encoding="utf-8")


# Both have the form of OpenAI's folders, which old and new releases of transformers read.
def _images(checkpoint: Checkpoint) -> dict[str, object]:
    spec = checkpoint.preprocess
    return {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": spec.resize},
        "crop_size": {"height": spec.image_size, "width": spec.image_size},
        "image_mean": list(spec.mean),
        "image_std": list(spec.std),
    }


def _texts(checkpoint: Checkpoint) -> dict[str, object]:
    # It pads with the end-of-text token. The first one counts, so the function stays the same.
    end = "<|endoftext|>"
    marks = {"bos_token": "<|startoftext|>", "eos_token": end, "pad_token": end, "unk_token": end}
    return {"tokenizer_class": "CLIPTokenizer", "model_max_length": checkpoint.tokenizer.context_length, **marks}
