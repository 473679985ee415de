"""The images and prompts of the gates, made without torch and without a bundle."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from lrclr.images import read_image
from lrclr.samples import sample_paths

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from lrclr.text import FindingSet

# As users may write prompts: short, empty, in other scripts, with emoji, with many words.
_ODD_PROMPTS = (
    "",
    "x",
    "Pleural effusion",
    "épanchement pleural droit, sans pneumothorax",
    "両側下肺野に浸潤影を認める",
    "🫁 opacity",
    "There is a moderate right pleural effusion with adjacent compressive atelectasis; the heart is enlarged.",
)
_LONG = "no acute cardiopulmonary abnormality "


def gate_images() -> list[NDArray[np.uint8]]:
    """The packaged radiographs and the centre of each: eight images of eight sizes, the last one in colour."""
    images = []
    for path in sample_paths():
        image = read_image(path)
        height, width = image.shape
        middle = image[height // 8 : -height // 8, width // 10 : -width // 10]
        images += [image, np.ascontiguousarray(middle)]
    grey = images[-1]
    # Three different channels, so that their order matters.
    images[-1] = np.stack([grey, grey - grey // 8, grey - grey // 4], axis=-1)
    return images


def images_sha256(images: Sequence[NDArray[np.uint8]]) -> str:
    """SHA-256 of the images' sizes and pixels."""
    digest = hashlib.sha256()
    for image in images:
        digest.update(repr(image.shape).encode())
        digest.update(np.ascontiguousarray(image).tobytes())
    return digest.hexdigest()


def gate_prompts(findings: FindingSet, context_length: int) -> tuple[str, ...]:
    """The prompts of the findings in order, then unusual ones. The last one exceeds the context length."""
    return (*findings.prompts, *_ODD_PROMPTS, _LONG * (context_length // 2))
