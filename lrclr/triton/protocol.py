"""Inputs, outputs and status codes of the Triton model `lrclr`, for the server, its configuration, and clients.

A request holds either encoded image files in ``image`` or preprocessed ones in ``pixel_values``; everything else is
optional. B images, F findings, R regions, D numbers of an embedding, S the side of the model's input. A request is
answered completely or refused. ``describe`` alone requests a description of the model.

Status codes: INVALID_ARGUMENT if the caller must change the request, UNAVAILABLE if a repetition may succeed,
UNIMPLEMENTED if the server lacks the decoder for a format, INTERNAL otherwise. The text of an error is the name of its
class in `lrclr.errors`, a colon, and one line that says what happened, why, and what to do.

At most `MAX_QUEUED` requests wait for a process of the model, each for at most `MAX_QUEUED_SECONDS`. Triton refuses the
others with UNAVAILABLE and one of the texts in `BUSY`, before an image is read.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from lrclr.contract import MODEL

__all__ = [
    "BUSY",
    "INPUTS",
    "LAST_ANSWER",
    "MAX_QUEUED",
    "MAX_QUEUED_SECONDS",
    "MODEL",
    "OUTPUTS",
    "RETRY_SECONDS",
    "Tensor",
]

# Prefix of the line that a process of the model writes after its last answer.
LAST_ANSWER: Final = "lrclr: last answer of process"
# Two for each process. The files of waiting requests are in the server's memory.
MAX_QUEUED: Final = 16
MAX_QUEUED_SECONDS: Final = 30
# Seconds after which a request that was refused for a full queue may be repeated.
RETRY_SECONDS: Final = 1.0
# Parts of Triton's error texts, and their meaning.
BUSY: Final = {
    "Exceeds maximum queue size": "its queue is full",
    "Request timeout expired": "the request waited too long in its queue",
}


class Tensor(NamedTuple):
    """Attributes: Triton's name of the type; dimensions, where a name stands for an axis; meaning."""

    datatype: str
    dims: tuple[int | str, ...]
    meaning: str


INPUTS: Final = {
    "image": Tensor("BYTES", ("B",), "encoded files: PNG, JPEG, TIFF or DICOM"),
    "pixel_values": Tensor("FP32", ("B", 3, "S", "S"), "preprocessed images, instead of files"),
    "finding": Tensor("BYTES", ("F",), "names of findings of the bundle; by default all"),
    "findings_toml": Tensor("BYTES", (1,), "the text of a findings file with prompts, instead of names"),
    "alpha": Tensor("FP64", (1,), "weight of the local score; by default that of the bundle"),
    "frame": Tensor("INT64", (1,), "number of the frame in files with several, from 0"),
    "heatmap": Tensor("BOOL", (1,), "whether to draw heat maps; not for pixel_values"),
    "exact": Tensor(
        "BOOL", (1,), "whether to read files in full; by default large ones are read at a lower resolution"
    ),
    "embedding": Tensor("BOOL", (1,), "whether to return the images' embeddings, too"),
    "sr": Tensor("BOOL", (1,), "whether to make a DICOM structured report of each image; for DICOM files only"),
    "describe": Tensor("BOOL", (1,), "request only the description; excludes all other inputs"),
}

OUTPUTS: Final = {
    "finding": Tensor("BYTES", ("F",), "names, in the order of the F axes"),
    "probability": Tensor("FP32", ("B", "F"), "probability of each finding, in [0, 1]"),
    "probability_spread": Tensor("FP32", ("B", "F"), "standard deviation over the members, of ensembles only"),
    "global_positive": Tensor("FP32", ("B", "F"), "cosine with the positive prompts, their mean"),
    "global_negative": Tensor("FP32", ("B", "F"), "cosine with the negative prompts, their mean"),
    "local_positive": Tensor("FP32", ("B", "F"), "fusion head's score of the positive prompts, their mean"),
    "local_negative": Tensor("FP32", ("B", "F"), "fusion head's score of the negative prompts, their mean"),
    "region_attention": Tensor("FP32", ("B", "F", "R"), "attention of the positive prompts that fit to each region"),
    "region_index": Tensor("INT64", ("B", "R"), "patch number of each region, row-major"),
    "region_importance": Tensor("FP32", ("B", "R"), "attention rollout from CLS to each region"),
    "region_box": Tensor("FP64", ("B", "R", 4), "left, top, right, bottom in pixels of the original image"),
    "image_size": Tensor("INT64", ("B", 2), "height and width of the original image"),
    "remarks": Tensor("BYTES", ("B",), "parts of each file that were ignored: one sentence per line, or empty"),
    "warnings": Tensor("BYTES", ("B",), "codes of input checks that warn of each file: one per line, or empty"),
    "alpha": Tensor("FP64", (1,), "weight of the local scores"),
    "exact": Tensor("BOOL", (1,), "whether files were read in full; not for pixel_values"),
    "heatmap": Tensor("BYTES", ("B",), "PNG files, if requested"),
    "image_embedding": Tensor("FP32", ("B", "D"), "embeddings of the images, of unit length, if requested"),
    "sr": Tensor("BYTES", ("B",), "DICOM structured reports, if requested"),
    "bundle": Tensor("BYTES", (1,), "SHA-256 of the manifest of the bundle that answered"),
    "description": Tensor("BYTES", (1,), "JSON: description of the model, if requested"),
}
