"""Fourth stage: chooses a tuned checkpoint's prompts on the validation images of `benchmarks.checkpoint.varied`.

::

    python -m benchmarks.checkpoint.prompts build/varied/manifest.csv build/lrclr

Candidates for a finding are the sentences with which reports of the phantom state it: one form, with every side or
lobe, and with two or three sizes. Of those whose AUROC is near the best, and of these of those whose region attention
points nearly best, the one with the fewest prompts is taken: each prompt costs time, and the mean over many sizes is
lower for an image that shows one of them. The prompts that deny a finding stay as they are. A checkpoint without a
trained fusion head gets the prompts with the best AUROC.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from benchmarks.checkpoint.images import SIDE, as_pixel_values, read_split
from benchmarks.commands import reports_errors
from benchmarks.phantom.reports import stated
from lrclr.checkpoints import load_checkpoint
from lrclr.inference._scores import attention_of_groups

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from benchmarks.checkpoint.images import Split
    from lrclr.checkpoints import Checkpoint
    from lrclr.text import Finding, FindingSet

    Floats = NDArray[np.float32]

__all__ = ["choose_prompts"]

_NEAR, _NEAR_POINTING = 0.003, 0.01  # AUROC that is given up for better pointing, and pointing for fewer prompts
_BATCH = 50


@dataclass(frozen=True)
class _Images:
    """The validation images as the prompts meet them.

    Attributes:
        embedding: ``[B, D]``.
        regions: ``[B, 1+R, D_image]``.
        touched: bool ``[B, F, R]``, which regions touch each finding's mask.
        shown: bool ``[B, F]``, the labels.
    """

    embedding: torch.Tensor
    regions: torch.Tensor
    touched: NDArray[np.bool_]
    shown: NDArray[np.bool_]


def choose_prompts(checkpoint: Checkpoint, data: Split) -> FindingSet:
    """The checkpoint's findings with the positive prompts that serve it best on these images."""
    with torch.no_grad():
        images = _encoded(checkpoint, data)
        chosen = [_chosen(checkpoint, images, at, finding) for at, finding in enumerate(checkpoint.findings.findings)]
    return replace(checkpoint.findings, findings=tuple(chosen))


def _encoded(checkpoint: Checkpoint, data: Split) -> _Images:
    encoded = [
        checkpoint.model.encode_image(as_pixel_values(torch.from_numpy(some).float()[:, None] / 255))
        for some in np.array_split(data.images, -(-len(data.images) // _BATCH))
    ]
    index = torch.cat([each.regions.index for each in encoded]).numpy()
    count, edge = len(data.images), data.images.shape[-1] // SIDE
    bits = np.arange(data.labels.shape[1])[:, None, None]
    patches = np.bitwise_or.reduce(data.masks.reshape(count, SIDE, edge, SIDE, edge), axis=(2, 4))
    touched = (patches[:, None] >> bits & 1).astype(bool).reshape(count, len(bits), SIDE * SIDE)
    return _Images(
        torch.cat([each.embedding for each in encoded]),
        torch.cat([each.regions.tokens for each in encoded]),
        np.take_along_axis(touched, index[:, None].repeat(len(bits), 1), axis=2),
        data.labels,
    )


def _chosen(checkpoint: Checkpoint, images: _Images, at: int, finding: Finding) -> Finding:
    denied, _ = _scores(checkpoint, images, finding.negative)
    shown, touched = images.shown[:, at], images.touched[:, at]
    visible = touched.any(-1) & shown
    found = []
    for prompts in stated(finding.name):
        scores, attention = _scores(checkpoint, images, prompts)
        area = roc_auc_score(shown, scores - denied)
        pointing = np.take_along_axis(touched[visible], attention[visible].argmax(-1)[:, None], axis=1).mean()
        found.append((area, pointing, prompts))
    best = max(area for area, _, _ in found)
    near = [each for each in found if each[0] >= best - (_NEAR if checkpoint.model.config.fusion_trained else 0.0)]
    least = max(pointing for _, pointing, _ in near) - _NEAR_POINTING
    area, pointing, prompts = min(
        (each for each in near if each[1] >= least), key=lambda each: (len(each[2]), -each[1])
    )
    sys.stderr.write(f"{finding.name}: AUROC {area:.3f} (best {best:.3f}), pointing {pointing:.2f}: {prompts[0]}\n")
    return replace(finding, positive=tuple(prompts))


def _scores(checkpoint: Checkpoint, images: _Images, prompts: Sequence[str]) -> tuple[Floats, Floats]:
    """Mean score ``[B]`` and region attention ``[B, R]`` of some prompts, as a finding's positive ones."""
    model, tokens = checkpoint.model, checkpoint.tokenizer.encode(list(prompts))
    mask = torch.from_numpy(tokens.mask)
    text = model.encode_text(torch.from_numpy(tokens.input_ids))
    score = (images.embedding @ text.embedding.T).mean(-1)
    fused = [model.fusion_head(some, text.tokens, mask) for some in torch.split(images.regions, _BATCH)]
    local, attention = (torch.cat([each[part] for each in fused]).numpy() for part in (0, 1))
    alpha = model.config.alpha if model.config.fusion_trained else 0.0
    combined = (1 - alpha) * score.numpy() + alpha * local.mean(1)
    return combined, attention_of_groups(attention, local, [np.arange(len(prompts))])[:, 0]


@reports_errors
def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.checkpoint.prompts", description="Choose prompts on validation.")
    parser.add_argument("dataset", type=Path, help="manifest.csv of the varied validation images")
    parser.add_argument("checkpoint", type=Path, help="folder of the tuned checkpoint; its prompts are replaced")
    options = parser.parse_args()
    checkpoint = load_checkpoint(options.checkpoint)
    findings = choose_prompts(checkpoint, read_split(options.dataset, "validation"))
    replace(checkpoint, findings=findings).save(options.checkpoint, overwrite=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
