"""What the Triton model `lrclr` takes and gives: the contract between its server side, its configuration, and clients.

A request holds either encoded image files in ``image`` or preprocessed ones in ``pixel_values``; everything else is
optional. B images, F findings, R regions, S the side of the model's input. A request is answered whole or refused
whole. ``describe`` alone asks what the model is.

Status codes: INVALID_ARGUMENT for what the caller must change, UNAVAILABLE for what may work when tried again,
UNIMPLEMENTED for a format whose decoder the server lacks, INTERNAL for the rest. The text of an error is the name of
its class in `lrclr.errors`, a colon, and one line that says what happened, why, and what to do.

At most `MAX_QUEUED` requests wait for a process of the model, each for at most `MAX_QUEUED_SECONDS`. Triton refuses the
others with UNAVAILABLE and one of the texts in `BUSY`, before it reads an image.
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

# Begins the line that a process of the model writes when it has answered its last request.
LAST_ANSWER: Final = "lrclr: last answer of process"
# Two for each process. What waits keeps its files in the server's memory.
MAX_QUEUED: Final = 16
MAX_QUEUED_SECONDS: Final = 30
# Seconds until a request that found the queue full should be sent again.
RETRY_SECONDS: Final = 1.0
# Parts of Triton's own texts, and what they mean.
BUSY: Final = {
    "Exceeds maximum queue size": "its queue is full",
    "Request timeout expired": "the request waited too long in its queue",
}


class Tensor(NamedTuple):
    """Attributes: Triton's name of the type; dims, where a name stands for an axis; what it means."""

    datatype: str
    dims: tuple[int | str, ...]
    meaning: str


INPUTS: Final = {
    "image": Tensor("BYTES", ("B",), "encoded files: PNG, JPEG, TIFF or DICOM"),
    "pixel_values": Tensor("FP32", ("B", 3, "S", "S"), "preprocessed images, instead of files"),
    "finding": Tensor("BYTES", ("F",), "names of the bundle's own findings to answer for; all if not given"),
    "findings_toml": Tensor("BYTES", (1,), "the text of a findings file, with own prompts, instead of names"),
    "alpha": Tensor("FP64", (1,), "weight of the local score, instead of the bundle's"),
    "frame": Tensor("INT64", (1,), "which frame of files that hold several, from 0"),
    "heatmap": Tensor("BOOL", (1,), "whether to draw heat maps; not for pixel_values"),
    "exact": Tensor("BOOL", (1,), "whether to read every pixel of files; by default large ones are read reduced"),
    "describe": Tensor("BOOL", (1,), "only say what the model is; excludes all other inputs"),
}

OUTPUTS: Final = {
    "finding": Tensor("BYTES", ("F",), "names, in the order of every F axis"),
    "probability": Tensor("FP32", ("B", "F"), "of each finding, in [0, 1]"),
    "global_positive": Tensor("FP32", ("B", "F"), "cosine with the positive prompts, their mean"),
    "global_negative": Tensor("FP32", ("B", "F"), "cosine with the negative prompts, their mean"),
    "local_positive": Tensor("FP32", ("B", "F"), "fusion head's score of the positive prompts, their mean"),
    "local_negative": Tensor("FP32", ("B", "F"), "fusion head's score of the negative prompts, their mean"),
    "region_attention": Tensor("FP32", ("B", "F", "R"), "of the positive prompts on each region"),
    "region_index": Tensor("INT64", ("B", "R"), "patch number of each region, row-major"),
    "region_importance": Tensor("FP32", ("B", "R"), "attention rollout of CLS on each region"),
    "region_box": Tensor("FP64", ("B", "R", 4), "left, top, right, bottom in pixels of the original image"),
    "image_size": Tensor("INT64", ("B", 2), "height and width of the original image"),
    "remarks": Tensor("BYTES", ("B",), "what was ignored in each file: sentences, one a line; empty if nothing was"),
    "alpha": Tensor("FP64", (1,), "weight that the local scores had"),
    "exact": Tensor("BOOL", (1,), "whether files were read in full; not for pixel_values"),
    "heatmap": Tensor("BYTES", ("B",), "PNG files, if they were asked for"),
    "bundle": Tensor("BYTES", (1,), "SHA-256 of the manifest of the bundle that answered"),
    "description": Tensor("BYTES", (1,), "JSON: what the model is, if describe was asked for"),
}
